"""Pose and person mask by BlazePose (Google MediaPipe, Apache-2.0), without MediaPipe.

Two networks: one finds persons and how they are turned, one finds 33 points and a mask in a square
around one of them.
"""

import math
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from .networks import run
from .pose import Pose

DETECTION_SIZE, LANDMARK_SIZE = 224, 256
STRIDES = (8, 16, 32, 32, 32)
POINTS = 33
MINIMUM_SCORE = 0.5
FAINT_SCORE = 0.2  # of the best, where none is certain: greyscale photos, close-ups
OVERLAP = 0.3
REGION = 1.25
MINIMUM_VISIBILITY = 0.3
REFINING, MINIMUM_HEAT = 7, 0.5  # window of the heatmap, in its pixels
NECK = (11, 12)
COCO_OF = (0, None, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7)  # by COCO-18 index


@dataclass(frozen=True, eq=False)
class Detection:
    """A person that was found: two points, whose distance is the radius of a circle around the
    person and whose direction is up. Pixels."""

    centre: np.ndarray
    top: np.ndarray


@dataclass(frozen=True, eq=False)
class Body:
    """points: 33 x 2 pixels; visibility: 33, 0..1; mask: H x W float32, 0..1, of this person;
    presence: 0..1, whether there is one."""

    points: np.ndarray
    visibility: np.ndarray
    mask: np.ndarray
    presence: float

    def pose(self) -> Pose:
        """COCO-18, without invisible points and those outside the picture."""
        seen = np.where(self.visibility[:, None] >= MINIMUM_VISIBILITY, self.points, np.nan)
        neck = seen[list(NECK)].mean(axis=0)
        points = [neck if index is None else seen[index] for index in COCO_OF]
        return Pose(np.array(points, np.float64)).within(*self.mask.shape)


def detect(image: np.ndarray) -> list[Detection]:
    """The persons of a picture H x W x 3 uint8 RGB, best score first; one faint detection where
    there is none better."""
    height, width = image.shape[:2]
    side = max(height, width)
    left, top = (side - width) / 2, (side - height) / 2
    scale = DETECTION_SIZE / side
    matrix = np.array([[scale, 0, left * scale], [0, scale, top * scale]])
    square = _warped(image, matrix, DETECTION_SIZE)
    boxes, scores = sorted(run("pose_detection", square / 127.5 - 1), key=np.size, reverse=True)
    raw = boxes.reshape(-1, 6, 2) / DETECTION_SIZE  # centre, size, four keypoints
    anchors = _anchors()
    centre, size = raw[:, 0] + anchors, raw[:, 1]
    points = np.concatenate(
        [(centre - size / 2)[:, None], (centre + size / 2)[:, None], raw[:, 2:] + anchors[:, None]],
        axis=1,
    )
    points = points * side - (left, top)
    score = 1 / (1 + np.exp(-scores.reshape(-1).clip(-50, 50)))
    certain = score >= MINIMUM_SCORE
    if certain.any():
        return _merged(points[certain], score[certain])
    faint = score >= FAINT_SCORE
    return _merged(points[faint], score[faint])[:1]


@cache
def _anchors() -> np.ndarray:
    """Centres of the detector's cells, 0..1; strides that repeat share a grid."""
    found = []
    for stride in sorted(set(STRIDES)):
        cells = math.ceil(DETECTION_SIZE / stride)
        y, x = np.mgrid[:cells, :cells]
        centres = np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5
        found.append(np.repeat(centres / cells, 2 * STRIDES.count(stride), axis=0))
    return np.concatenate(found)


def _merged(points: np.ndarray, scores: np.ndarray) -> list[Detection]:
    """Detections that overlap the best one become their mean, weighted by score; and so on."""
    found = []
    while len(scores):
        best = scores.argmax()
        same = _overlaps(points[:, :2], points[best, :2]) > OVERLAP
        same[best] = True
        mean = np.average(points[same], axis=0, weights=scores[same])
        found.append(Detection(centre=mean[2], top=mean[3]))
        points, scores = points[~same], scores[~same]
    return found


def _overlaps(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Intersection over union of N x 2 x 2 corners with one."""
    corners = np.minimum(boxes[:, 1], box[1]) - np.maximum(boxes[:, 0], box[0])
    shared = corners.clip(0).prod(axis=1)
    areas = (boxes[:, 1] - boxes[:, 0]).prod(axis=1) + (box[1] - box[0]).prod()
    return shared / np.maximum(areas - shared, 1e-9)


def find_body(image: np.ndarray, detection: Detection) -> Body:
    """Points and mask of a detected person."""
    height, width = image.shape[:2]
    into = _region(detection)
    square = _warped(image, into, LANDMARK_SIZE, cv2.BORDER_REPLICATE)
    outputs = {output.size: output for output in run("pose_landmark_full", square / 255)}
    raw = outputs[195].reshape(39, 5)[:POINTS]
    heat = outputs[64 * 64 * 39].reshape(64, 64, 39)
    points = np.stack([_refined(raw[i, :2], heat[..., i]) for i in range(POINTS)])
    back = cv2.invertAffineTransform(into)
    logits = outputs[LANDMARK_SIZE**2].reshape(LANDMARK_SIZE, LANDMARK_SIZE)
    certain = 1 / (1 + np.exp(-logits.clip(-50, 50)))
    return Body(
        points=points @ back[:, :2].T + back[:, 2],
        visibility=1 / (1 + np.exp(-raw[:, 3].clip(-50, 50))),
        mask=cv2.warpAffine(certain.astype(np.float32), back, (width, height)),
        presence=float(outputs[1].reshape(-1)[0]),
    )


def _region(detection: Detection) -> np.ndarray:
    """The affine map of the person's turned square into the network's, 2 x 3."""
    up = detection.top - detection.centre
    side = 2 * max(float(np.linalg.norm(up)), 1.0) * REGION
    angle = math.atan2(up[0], -up[1])  # 0 is upright
    scale = LANDMARK_SIZE / side
    c, s = math.cos(angle) * scale, math.sin(angle) * scale
    turn = np.array([[c, s], [-s, c]])
    shift = LANDMARK_SIZE / 2 - turn @ detection.centre
    return np.concatenate([turn, shift[:, None]], axis=1)


def _refined(point: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The heatmap's centroid around a point, where the heat is certain. LANDMARK_SIZE units."""
    size = heat.shape[0]
    column, row = (int(value * size / LANDMARK_SIZE) for value in point)
    if not (0 <= column < size and 0 <= row < size):
        return point
    reach = REFINING // 2
    top, left = max(0, row - reach), max(0, column - reach)
    window = heat[top : row + reach + 1, left : column + reach + 1]
    window = 1 / (1 + np.exp(-window.clip(-50, 50)))
    if window.max() < MINIMUM_HEAT:
        return point
    y, x = np.mgrid[top : top + window.shape[0], left : left + window.shape[1]]
    centroid = np.array([(x * window).sum(), (y * window).sum()]) / window.sum()
    return centroid * LANDMARK_SIZE / size


def _warped(
    image: np.ndarray, matrix: np.ndarray, size: int, border: int = cv2.BORDER_CONSTANT
) -> np.ndarray:
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)
