"""Body keypoints: OpenPose's COCO-18, and the JSON in which ComfyUI packs pass them on."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ..errors import StableVITONError

COCO_18 = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow",
    "left_wrist", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip
BODY_25_INDICES = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)  # of COCO_18
ARMS = (
    ("left_shoulder", "left_elbow", "left_wrist"),
    ("right_shoulder", "right_elbow", "right_wrist"),
)
LIMBS = (
    "neck right_shoulder right_elbow right_wrist",
    "neck left_shoulder left_elbow left_wrist",
    "neck right_hip right_knee right_ankle",
    "neck left_hip left_knee left_ankle",
    "neck nose right_eye right_ear",
    "nose left_eye left_ear",
)
BONES = tuple(bone for limb in LIMBS for bone in pairwise(limb.split()))


@dataclass(frozen=True, eq=False)
class Pose:
    """The keypoints of one person. points: 18 x 2 float64 in the order of COCO_18, x and y in
    pixels, NaN where missing. "Left" and "right" are the person's."""

    points: np.ndarray

    def __getitem__(self, name: str) -> np.ndarray:
        return self.points[COCO_18.index(name)]

    def has(self, *names: str) -> bool:
        return all(bool(np.isfinite(self[name]).all()) for name in names)

    def size(self) -> float:
        """Diagonal of the bounding box of the points, pixels; 0 without any."""
        present = self.points[np.isfinite(self.points).all(axis=1)]
        return float(np.linalg.norm(np.ptp(present, axis=0))) if len(present) else 0.0

    def centre(self) -> np.ndarray:
        """Mean of the points; NaN without any."""
        return self.points[np.isfinite(self.points).all(axis=1)].mean(axis=0)

    def distance(self, other: "Pose") -> float:
        """Mean distance of the points that both have, pixels; infinite without any."""
        distances = np.linalg.norm(self.points - other.points, axis=1)
        common = distances[np.isfinite(distances)]
        return float(common.mean()) if len(common) else math.inf

    def within(self, height: int, width: int) -> "Pose":
        """The pose without the points outside an image."""
        inside = (self.points >= 0) & (self.points < (width, height))
        inside = np.all(inside, axis=1, keepdims=True)
        return Pose(np.where(inside, self.points, np.nan))


def choose_person(
    sizes: Sequence[float] | np.ndarray,
    centres: Sequence[np.ndarray] | np.ndarray,
    point: tuple[float, float] | None,
) -> int:
    """The index of the largest of several persons, or of the one whose centre (x, y) is nearest to
    a point, both in pixels."""
    if point is None:
        return int(np.argmax(sizes))
    return int(np.argmin(np.linalg.norm(np.array(centres) - point, axis=1)))


def choose_pose(poses: Sequence[Pose], point: tuple[float, float] | None) -> Pose:
    """The person as in `choose_person`. poses: at least one."""
    sizes, centres = [pose.size() for pose in poses], [pose.centre() for pose in poses]
    return poses[choose_person(sizes, centres, point)]


def pose_from_points(points: Sequence[Sequence[float]]) -> Pose:
    """A pose from 18 (COCO) or 25 (BODY_25) points; x = y = 0 is missing. StableVITONError for
    other counts."""
    array = np.array(points, np.float64)
    if array.ndim != 2 or len(array) not in (18, 25) or array.shape[1] != 2:
        raise StableVITONError(
            f"a person has 18 (COCO) or 25 (BODY_25) keypoints of x and y, got an array of "
            f"{' x '.join(map(str, array.shape))}"
        )
    if len(array) == 25:
        array = array[list(BODY_25_INDICES)]
    missing = np.all(array == 0, axis=1, keepdims=True)
    return Pose(np.where(missing, np.nan, array))


def poses_from_json(frame: Mapping[str, Any], height: int, width: int) -> list[Pose]:
    """The persons of one image's OpenPose JSON (POSE_KEYPOINT), largest first, in pixels of an
    image of height x width.

    Reads pixels of the JSON's own canvas or fractions of it (0..1), points with or without a
    confidence, and persons without a body (None). StableVITONError for another schema, and where
    the canvas has another aspect than the image.
    """
    if not isinstance(frame, Mapping) or not isinstance(frame.get("people"), list):
        raise StableVITONError(
            "keypoints are OpenPose JSON with a list 'people' for each image, as the pose nodes "
            f"of comfyui_controlnet_aux give it; got {_describe(frame)}"
        )
    try:
        people = [points for points in map(_read_points, frame["people"]) if points is not None]
        canvas = (
            float(frame.get("canvas_width") or width),
            float(frame.get("canvas_height") or height),
        )
    except (TypeError, ValueError) as error:
        raise StableVITONError(f"keypoints and canvas are numbers; {error}") from error
    if abs(canvas[0] * height / canvas[1] - width) > 1.5:
        raise StableVITONError(
            f"the keypoints' canvas is {canvas[0]:.0f} x {canvas[1]:.0f} and the image {width} x "
            f"{height}: their aspects differ. Find the pose in this image."
        )
    present = [abs(points[points != 0]).max() for points in people if (points != 0).any()]
    relative = bool(present) and max(present) <= 2  # points may lie a little outside of 0..1
    scale = np.array((width, height)) / (1.0 if relative else canvas)
    poses = [pose_from_points((points * scale).tolist()) for points in people]
    present_poses = [pose for pose in poses if np.isfinite(pose.points).any()]
    return sorted(present_poses, key=Pose.size, reverse=True)


def read_pose_keypoints(keypoints: Any, batch: int, height: int, width: int) -> list[Pose]:
    """The largest person of every image of a batch, from a POSE_KEYPOINT: a list of OpenPose JSON,
    one for each image or one for all, or a single one. StableVITONError where it is something else,
    or shows nobody."""
    frames = [keypoints] if isinstance(keypoints, Mapping) else keypoints
    if not isinstance(frames, list) or len(frames) not in (1, batch):
        raise StableVITONError(
            f"keypoints are a list with one entry for each of the {batch} images, or one for "
            f"all; got {len(frames) if isinstance(frames, list) else _describe(frames)}"
        )
    largest = []
    for index, frame in enumerate(frames):
        poses = poses_from_json(frame, height, width)
        if not poses:
            raise StableVITONError(
                f"the keypoints of image {index + 1} show nobody. Leave them out for the "
                "built-in pose, or use another photo."
            )
        largest.append(poses[0])
    return largest * (batch // len(largest))


def _describe(value: object) -> str:
    keys = f" with {', '.join(map(str, list(value)[:5]))}" if isinstance(value, Mapping) else ""
    return type(value).__name__ + keys


def _read_points(person: Any) -> np.ndarray | None:
    """A person's points N x 2, with 0 where one is missing; None without a body."""
    if not isinstance(person, Mapping) or "pose_keypoints_2d" not in person:
        raise StableVITONError(f"a person has 'pose_keypoints_2d', got {_describe(person)}")
    numbers = person["pose_keypoints_2d"]
    if numbers is None or len(numbers) == 0:
        return None
    array = np.array(numbers, np.float64).reshape(-1)
    if len(array) not in (36, 50, 54, 75):
        raise StableVITONError(
            "pose_keypoints_2d holds x, y and confidence of 18 or 25 keypoints (54 or 75 numbers), "
            f"got {len(array)}"
        )
    points = array.reshape(-1, 3 if len(array) in (54, 75) else 2)
    missing = ~np.all(np.isfinite(points), axis=1, keepdims=True)
    if points.shape[1] == 3:
        missing |= points[:, 2:] <= 0
    return np.where(missing, 0, points[:, :2])


def poses_to_json(poses: Sequence[Pose], height: int, width: int) -> dict[str, Any]:
    """OpenPose JSON in pixels, with confidence 1 for the points that are there and 0 for others."""
    people = []
    for pose in poses:
        present = np.isfinite(pose.points).all(axis=1)
        numbers = np.concatenate([pose.points, present[:, None]], axis=1)
        numbers[~present] = 0
        people.append({"pose_keypoints_2d": numbers.reshape(-1).tolist()})
    return {"people": people, "canvas_height": height, "canvas_width": width}
