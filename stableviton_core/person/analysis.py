"""The persons in an image: detects them with the shipped networks, chooses one, and gives its pose,
outline, body parts and labels."""

from dataclasses import dataclass

import numpy as np

from ..errors import StableVITONError
from .blazepose import Body
from .bodies import OUTLINE_THRESHOLD, find_bodies, track_body
from .clothes import label_clothes
from .pose import Pose, choose_pose
from .skeleton import approximate_parts

OTHER_PERSON = 0.12  # mean distance of a pose from a body, of its size, that makes it another's


class NoPersonError(StableVITONError):
    """An image in which no person was found."""


@dataclass(frozen=True, eq=False)
class PersonAnalysis:
    """One person. outline: H x W bool. parts: DensePose indices, approximated from the skeleton;
    parse: labels in CIHP ids, by `label_clothes`; both H x W uint8."""

    pose: Pose
    outline: np.ndarray
    parts: np.ndarray
    parse: np.ndarray


def check_found(bodies: list[Body]) -> None:
    """NoPersonError without any person."""
    if not bodies:
        raise NoPersonError(
            "nobody was found in this image. Take one that shows a person from the head to the "
            "hips, upright and not too small."
        )


def choose_body(bodies: list[Body], point: tuple[float, float] | None = None) -> Body:
    """The largest person, or the nearest to a point (x, y) in pixels. NoPersonError without any."""
    check_found(bodies)
    poses = [body.to_pose() for body in bodies]
    return bodies[poses.index(choose_pose(poses, point))]


def find_body(
    image: np.ndarray, pose: Pose | None = None, point: tuple[float, float] | None = None
) -> tuple[Body, np.ndarray]:
    """One person, and the outline of the others, H x W bool, outside its own.

    The person is the one of a given pose, with the joints of that pose, else as in `choose_body`.
    Where a pose is given and nobody is detected at it, the outline is looked for at its joints.
    """
    bodies = find_bodies(image)
    match = choose_body(bodies, point) if pose is None else _match_body(bodies, pose)
    person = match
    if pose is not None:
        person = track_body(image, pose) if match is None else match.with_pose(pose)
    assert person is not None
    others = np.zeros(image.shape[:2], bool)
    for body in bodies:
        if body is not match:
            others |= body.mask > OUTLINE_THRESHOLD
    return person, others & ~(person.mask > OUTLINE_THRESHOLD)


def _match_body(bodies: list[Body], pose: Pose) -> Body | None:
    distances = [pose.distance(body.to_pose()) for body in bodies]
    nearest = min(distances, default=np.inf)
    return bodies[distances.index(nearest)] if nearest <= OTHER_PERSON * pose.size() else None


def locate_pose(image: np.ndarray, expected: Pose) -> Pose:
    """The pose of the person who is detected at an expected one; that one itself where nobody is,
    as in an image without the head."""
    body = _match_body(find_bodies(image), expected)
    return expected if body is None else body.to_pose()


def find_person(
    image: np.ndarray, pose: Pose | None = None, point: tuple[float, float] | None = None
) -> tuple[Pose, np.ndarray, np.ndarray]:
    """The pose of one person, found as in `find_body`, its outline, and that of the others: H x W
    bool, disjoint."""
    body, others = find_body(image, pose, point)
    pose = body.to_pose() if pose is None else pose
    return pose, body.mask > OUTLINE_THRESHOLD, others


def analyze_parts(
    image: np.ndarray, pose: Pose | None = None, point: tuple[float, float] | None = None
) -> np.ndarray:
    """DensePose part indices H x W uint8 of one person, found as in `find_body`, approximated from
    the skeleton; errors as those of `analyze_person`."""
    pose, outline, _ = find_person(image, pose, point)
    return approximate_parts(pose, outline)


def parse_person(
    image: np.ndarray, pose: Pose | None = None, category: str = "upper"
) -> tuple[Pose, np.ndarray]:
    """The pose of one person, found as in `find_body`, and its parse, H x W uint8 in CIHP ids, by
    `label_clothes`. NoPersonError without any."""
    body, others = find_body(image, pose)
    pose = body.to_pose() if pose is None else pose
    return pose, label_clothes(image, body, others, category)


def analyze_person(
    image: np.ndarray,
    pose: Pose | None = None,
    point: tuple[float, float] | None = None,
    category: str = "upper",
) -> PersonAnalysis:
    """Pose, outline, DensePose parts and parse of one person, found as in `find_body`. category:
    see `label_clothes`. NoPersonError without any, StableVITONError without both shoulders."""
    body, others = find_body(image, pose, point)
    pose = body.to_pose() if pose is None else pose
    outline = body.mask > OUTLINE_THRESHOLD
    parts = approximate_parts(pose, outline)
    return PersonAnalysis(pose, outline, parts, label_clothes(image, body, others, category))
