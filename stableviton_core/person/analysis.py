"""The persons in an image: detects them with the shipped networks, chooses one, and gives its pose,
outline, body parts and labels."""

from dataclasses import dataclass

import numpy as np

from ..errors import StableVITONError
from .blazepose import Body, detect_persons, estimate_body
from .networks import segment_people
from .pose import Pose, choose_pose
from .skeleton import approximate_parse, approximate_parts

OUTLINE_THRESHOLD = 0.5  # probability from which a pixel is the person's
PRESENCE_THRESHOLD = 0.5  # and from which a detection is a person


class NoPersonError(StableVITONError):
    """An image in which no person was found."""


@dataclass(frozen=True, eq=False)
class PersonAnalysis:
    """One person. outline: H x W bool. parts: DensePose indices, parse: labels in CIHP ids; both
    H x W uint8 and approximated from the skeleton."""

    pose: Pose
    outline: np.ndarray
    parts: np.ndarray
    parse: np.ndarray


def find_bodies(image: np.ndarray) -> list[Body]:
    """All persons of an image H x W x 3 uint8 RGB, largest first."""
    bodies = [estimate_body(image, detection) for detection in detect_persons(image)]
    present = [
        body
        for body in bodies
        if body.presence >= PRESENCE_THRESHOLD
        and (body.mask > OUTLINE_THRESHOLD).any()
        and body.to_pose().size() > 0
    ]
    return sorted(present, key=lambda body: body.to_pose().size(), reverse=True)


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


def find_person(
    image: np.ndarray, pose: Pose | None = None, point: tuple[float, float] | None = None
) -> tuple[Pose, np.ndarray, np.ndarray]:
    """The pose of one person, its outline, and that of the others: H x W bool, disjoint.

    The person is the one of a given pose, else as in `choose_body`. With a pose and nobody found,
    the outline is that of everyone in the image.
    """
    bodies = find_bodies(image)
    if pose is not None and not bodies:
        everyone = segment_people(image) > OUTLINE_THRESHOLD
        return pose, everyone, np.zeros_like(everyone)
    if pose is None:
        person = choose_body(bodies, point)
        pose = person.to_pose()
    else:
        distances = [pose.distance(body.to_pose()) for body in bodies]
        person = bodies[distances.index(min(distances))]
    outline = person.mask > OUTLINE_THRESHOLD
    others = np.zeros_like(outline)
    for body in bodies:
        if body is not person:
            others |= body.mask > OUTLINE_THRESHOLD
    return pose, outline, others & ~outline


def analyze_person(
    image: np.ndarray, pose: Pose | None = None, point: tuple[float, float] | None = None
) -> PersonAnalysis:
    """Pose, outline, DensePose parts and parse of one person, found as in `find_person`.
    NoPersonError without any, StableVITONError without both shoulders."""
    pose, outline, _ = find_person(image, pose, point)
    parts = approximate_parts(pose, outline)
    return PersonAnalysis(pose, outline, parts, approximate_parse(parts))
