"""The persons of an image by BlazePose, from the image and its mirror image: the mean of both is
steadier than one, and the same for a mirrored photo."""

from collections.abc import Sequence

import numpy as np

from .blazepose import Body, Detection, detect_persons, estimate_body
from .networks import segment_people
from .pose import Pose
from .skeleton import locate_hips, measure_shoulder_width

OUTLINE_THRESHOLD = 0.5  # probability from which a pixel is the person's
PRESENCE_THRESHOLD = 0.5  # and from which a detection is a person
TRACKED_PRESENCE = 0.2  # the same where a pose says that there is one
SAME_DETECTION = 0.5  # distance of the centres of two detections of one person, of the radius
SAME_JOINT = 0.08  # distance of a joint found twice, of the radius
SAME_PERSON = 0.1  # mean distance of the joints of one person found twice, of the pose's size
HEADROOM = 1.25  # radius of the circle around a person, of the distance of the farthest joint

# Landmarks that change places in a mirror image.
MIRRORED = (0, 4, 5, 6, 1, 2, 3, *(n + 1 if n % 2 else n - 1 for n in range(7, 33)))


def find_bodies(image: np.ndarray) -> list[Body]:
    """All persons of an image H x W x 3 uint8 RGB, largest first."""
    bodies = [_estimate_body(image, detection) for detection in _detect_persons(image)]
    present = [
        body
        for body in bodies
        if body.presence >= PRESENCE_THRESHOLD
        and (body.mask > OUTLINE_THRESHOLD).any()
        and body.to_pose().size() > 0
    ]
    largest_first = sorted(present, key=lambda body: body.to_pose().size(), reverse=True)
    return _drop_repeats(largest_first)


def track_body(image: np.ndarray, pose: Pose) -> Body:
    """The body whose joints are known, where it is not detected, as in a crop without the head.
    StableVITONError where the pose lacks a shoulder."""
    hips = np.mean(locate_hips(pose, measure_shoulder_width(pose)), axis=0)
    up = (pose["right_shoulder"] + pose["left_shoulder"]) / 2 - hips
    present = pose.points[np.isfinite(pose.points).all(axis=1)]
    radius = HEADROOM * float(np.linalg.norm(present - hips, axis=1).max())
    top = hips + radius * up / max(float(np.linalg.norm(up)), 1e-6)
    body = _estimate_body(image, Detection(hips, top))
    mask = body.mask if body.presence >= TRACKED_PRESENCE else segment_people(image)
    return Body(body.points, body.visibility, mask, body.presence).with_pose(pose)


def _detect_persons(image: np.ndarray) -> list[Detection]:
    """Those of the image, moved to the mean with the same one of the mirror image, and the others
    of the mirror image."""
    width = image.shape[1]
    mirrored = [_mirror_detection(found, width) for found in detect_persons(_mirror(image))]
    detections = []
    for detection in detect_persons(image):
        radius = float(np.linalg.norm(detection.top - detection.centre))
        near = [
            other
            for other in mirrored
            if np.linalg.norm(other.centre - detection.centre) < SAME_DETECTION * radius
        ]
        group = [detection, *near]
        mirrored = [other for other in mirrored if other not in near]
        centre = np.mean([item.centre for item in group], axis=0)
        detections.append(Detection(centre, np.mean([item.top for item in group], axis=0)))
    return detections + mirrored


def _estimate_body(image: np.ndarray, detection: Detection) -> Body:
    width = image.shape[1]
    body = estimate_body(image, detection)
    other = estimate_body(_mirror(image), _mirror_detection(detection, width))
    points = other.points[list(MIRRORED)]
    points[:, 0] = width - 1 - points[:, 0]
    visibility = other.visibility[list(MIRRORED)]
    # Where they disagree, as when one takes the left arm for the right, the mean would be neither.
    radius = float(np.linalg.norm(detection.top - detection.centre))
    agree = np.linalg.norm(body.points - points, axis=1) < SAME_JOINT * radius
    clearer = np.where((body.visibility >= visibility)[:, None], body.points, points)
    return Body(
        points=np.where(agree[:, None], (body.points + points) / 2, clearer),
        visibility=(body.visibility + visibility) / 2,
        mask=(body.mask + _mirror(other.mask)) / 2,
        presence=(body.presence + other.presence) / 2,
    )


def _mirror(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[:, ::-1])


def _mirror_detection(detection: Detection, width: int) -> Detection:
    centre, top = (
        np.array([width - 1 - point[0], point[1]]) for point in (detection.centre, detection.top)
    )
    return Detection(centre, top)


def _drop_repeats(bodies: Sequence[Body]) -> list[Body]:
    """The bodies without those that are an earlier one again."""
    different: list[Body] = []
    for body in bodies:
        pose = body.to_pose()
        others = [other.to_pose() for other in different]
        if all(pose.distance(other) > SAME_PERSON * other.size() for other in others):
            different.append(body)
    return different
