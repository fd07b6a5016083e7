"""Everything that a try-on needs to know about the person in a picture, by the shipped networks."""

from dataclasses import dataclass

import numpy as np

from ..errors import StableVITONError
from .blazepose import Body, detect, find_body
from .pose import Pose, chosen
from .segment import person_mask
from .skeleton import approximate_parse, approximate_parts

OUTLINE = 0.5  # certainty from which a pixel is the person's
PRESENT = 0.5  # and from which there is a person at all


class NoPersonError(StableVITONError):
    """A picture in which nobody was found."""


@dataclass(frozen=True, eq=False)
class Analysis:
    """One person. outline: H x W bool. parts: DensePose indices and parse: labels in CIHP ids,
    both H x W uint8 and approximate, from the skeleton."""

    pose: Pose
    outline: np.ndarray
    parts: np.ndarray
    parse: np.ndarray


def bodies(image: np.ndarray) -> list[Body]:
    """The persons of a picture H x W x 3 uint8 RGB, largest first."""
    found = [find_body(image, detection) for detection in detect(image)]
    found = [
        body
        for body in found
        if body.presence >= PRESENT and (body.mask > OUTLINE).any() and body.pose().size() > 0
    ]
    return sorted(found, key=lambda body: body.pose().size(), reverse=True)


def chosen_body(image: np.ndarray, point: tuple[float, float] | None = None) -> Body:
    """The largest person, or the one whose middle is nearest to a point (x, y), pixels. NoPersonError
    where there is none."""
    found = bodies(image)
    if not found:
        raise NoPersonError(
            "nobody was found in this picture. Take one that shows a person from the head to the "
            "hips, upright and not too small."
        )
    return found[chosen([body.pose() for body in found], point)]


def outlines(image: np.ndarray, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Where the person of a pose is, and where others are: both H x W bool, apart. Where nobody is
    found, everyone's outline counts as the person's."""
    found = bodies(image)
    if not found:
        everyone = person_mask(image) > OUTLINE
        return everyone, np.zeros_like(everyone)
    own = min(found, key=lambda body: pose.distance(body.pose()))
    outline = own.mask > OUTLINE
    others = np.zeros_like(outline)
    for body in found:
        if body is not own:
            others |= body.mask > OUTLINE
    return outline, others & ~outline


def analysed(
    image: np.ndarray, pose: Pose | None = None, point: tuple[float, float] | None = None
) -> Analysis:
    """The person of a pose, else as `chosen_body`, of a picture H x W x 3 uint8 RGB. NoPersonError
    and StableVITONError where there is none, or one without both shoulders."""
    if pose is None:
        body = chosen_body(image, point)
        pose, outline = body.pose(), body.mask > OUTLINE
    else:
        outline, _ = outlines(image, pose)
    parts = approximate_parts(pose, outline)
    return Analysis(pose, outline, parts, approximate_parse(parts))


def box_of(body: Body) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a person's outline and points."""
    rows, columns = np.nonzero(body.mask > OUTLINE)
    points = body.pose().points
    points = points[np.isfinite(points).all(axis=1)]
    x, y = np.concatenate([columns, points[:, 0]]), np.concatenate([rows, points[:, 1]])
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())
