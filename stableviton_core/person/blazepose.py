"""Pose and person mask by BlazePose (Google MediaPipe, Apache-2.0), without MediaPipe.

Two networks: a detector of persons and their rotation, and one that finds 33 landmarks and a mask
in a rotated square around one person. Images are H x W x 3 uint8 RGB.
"""

import math
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from einops import rearrange

from .networks import run_network
from .pose import COCO_18, Pose

DETECTION_SIZE, LANDMARK_SIZE = 224, 256
STRIDES = (8, 16, 32, 32, 32)
LANDMARKS = 33
MINIMUM_SCORE = 0.5
FALLBACK_SCORE = 0.05  # for the best detection, where none reaches MINIMUM_SCORE: grey, close-ups
MINIMUM_IOU = 0.3  # of detections of one person
REGION_SCALE = 1.25  # of the landmark network's square, relative to the detected circle
MINIMUM_VISIBILITY = 0.3
HEAT_WINDOW, MINIMUM_HEAT = 7, 0.5  # pixels of the heatmap; probability
SHOULDERS = (11, 12)  # whose middle is the neck
LANDMARK_OF_COCO = (0, None, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7)


@dataclass(frozen=True, eq=False)
class Detection:
    """A detected person: the centre of a circle around it and the circle's point above the head,
    x and y in pixels."""

    centre: np.ndarray
    top: np.ndarray


@dataclass(frozen=True, eq=False)
class Body:
    """points: 33 x 2, pixels; visibility: 33, 0..1; mask: H x W float32, the probability of this
    person; presence: probability that there is one."""

    points: np.ndarray
    visibility: np.ndarray
    mask: np.ndarray
    presence: float

    def to_pose(self) -> Pose:
        """COCO-18, without invisible points and those outside the image."""
        visible = self.visibility[:, None] >= MINIMUM_VISIBILITY
        points = np.where(visible, self.points, np.nan)
        neck = points[list(SHOULDERS)].mean(axis=0)
        coco = [neck if index is None else points[index] for index in LANDMARK_OF_COCO]
        return Pose(np.array(coco, np.float64)).within(*self.mask.shape)

    def with_pose(self, pose: Pose) -> "Body":
        """The body with a pose's joints in place of its own. Those that the pose lacks are
        invisible."""
        points, visibility = self.points.copy(), self.visibility.copy()
        for name, index in zip(COCO_18, LANDMARK_OF_COCO, strict=True):
            if index is None:
                continue
            visibility[index] = float(pose.has(name))
            if pose.has(name):
                points[index] = pose[name]
        return Body(points, visibility, self.mask, self.presence)


def detect_persons(image: np.ndarray) -> list[Detection]:
    """The persons of an image, best score first; the best below MINIMUM_SCORE where none reaches
    it."""
    height, width = image.shape[:2]
    side = max(height, width)
    left, top = (side - width) / 2, (side - height) / 2
    scale = DETECTION_SIZE / side
    matrix = np.array([[scale, 0, left * scale], [0, scale, top * scale]])
    square = _warp_to_square(image, matrix, DETECTION_SIZE)
    outputs = run_network("pose_detection", square / 127.5 - 1)
    boxes, scores = sorted(outputs, key=np.size, reverse=True)
    raw = rearrange(boxes / DETECTION_SIZE, "... (points xy) -> (...) points xy", xy=2)
    anchors = _make_anchors()
    centre, size = raw[:, 0] + anchors, raw[:, 1]  # then four keypoints
    points = np.concatenate(
        [(centre - size / 2)[:, None], (centre + size / 2)[:, None], raw[:, 2:] + anchors[:, None]],
        axis=1,
    )
    points = points * side - (left, top)
    score = _apply_sigmoid(scores.reshape(-1))
    certain = score >= MINIMUM_SCORE
    if certain.any():
        return _merge_detections(points[certain], score[certain])
    possible = score >= FALLBACK_SCORE
    return _merge_detections(points[possible], score[possible])[:1]


@cache
def _make_anchors() -> np.ndarray:
    """Centres of the detector's cells, N x 2 in 0..1; equal strides share a grid."""
    anchors = []
    for stride in sorted(set(STRIDES)):
        cells = math.ceil(DETECTION_SIZE / stride)
        y, x = np.mgrid[:cells, :cells]
        centres = np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5
        anchors.append(np.repeat(centres / cells, 2 * STRIDES.count(stride), axis=0))
    return np.concatenate(anchors)


def _merge_detections(points: np.ndarray, scores: np.ndarray) -> list[Detection]:
    """Weighted non-maximum suppression: the best detection and those that overlap it become their
    mean, weighted by score, and so on. points: N x 6 x 2, two corners and four keypoints."""
    detections = []
    while len(scores):
        best = scores.argmax()
        same = _measure_iou(points[:, :2], points[best, :2]) > MINIMUM_IOU
        same[best] = True
        mean = np.average(points[same], axis=0, weights=scores[same])
        detections.append(Detection(centre=mean[2], top=mean[3]))
        points, scores = points[~same], scores[~same]
    return detections


def _measure_iou(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Intersection over union of N boxes with one. boxes: N x 2 x 2, two corners (x, y) each."""
    sides = np.minimum(boxes[:, 1], box[1]) - np.maximum(boxes[:, 0], box[0])
    shared = sides.clip(0).prod(axis=1)
    areas = (boxes[:, 1] - boxes[:, 0]).prod(axis=1) + (box[1] - box[0]).prod()
    return shared / np.maximum(areas - shared, 1e-9)


def estimate_body(image: np.ndarray, detection: Detection) -> Body:
    """Landmarks and mask of a detected person."""
    height, width = image.shape[:2]
    into = _make_region_transform(detection)
    square = _warp_to_square(image, into, LANDMARK_SIZE, cv2.BORDER_REPLICATE)
    outputs = {output.size: output for output in run_network("pose_landmark_full", square / 255)}
    raw = outputs[195].reshape(39, 5)[:LANDMARKS]  # x, y, z, visibility, presence
    heat = outputs[64 * 64 * 39].reshape(64, 64, 39)
    points = np.stack([_refine_point(raw[i, :2], heat[..., i]) for i in range(LANDMARKS)])
    back = cv2.invertAffineTransform(into)
    logits = outputs[LANDMARK_SIZE**2].reshape(LANDMARK_SIZE, LANDMARK_SIZE)
    mask = _apply_sigmoid(logits).astype(np.float32)
    return Body(
        points=points @ back[:, :2].T + back[:, 2],
        visibility=_apply_sigmoid(raw[:, 3]),
        mask=cv2.warpAffine(mask, back, (width, height)),
        presence=float(outputs[1].reshape(-1)[0]),
    )


def _make_region_transform(detection: Detection) -> np.ndarray:
    """The affine transform of the person's rotated square into the network's input, 2 x 3."""
    up = detection.top - detection.centre
    side = 2 * max(float(np.linalg.norm(up)), 1.0) * REGION_SCALE
    angle = math.atan2(up[0], -up[1])  # 0 is upright
    scale = LANDMARK_SIZE / side
    c, s = math.cos(angle) * scale, math.sin(angle) * scale
    rotation = np.array([[c, s], [-s, c]])
    shift = LANDMARK_SIZE / 2 - rotation @ detection.centre
    return np.concatenate([rotation, shift[:, None]], axis=1)


def _refine_point(point: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The centroid of the heatmap (logits h x w) around a point; the point itself where the
    heatmap is uncertain. x and y in pixels of the network's input."""
    size = heat.shape[0]
    column, row = (int(value * size / LANDMARK_SIZE) for value in point)
    if not (0 <= column < size and 0 <= row < size):
        return point
    reach = HEAT_WINDOW // 2
    top, left = max(0, row - reach), max(0, column - reach)
    window = _apply_sigmoid(heat[top : row + reach + 1, left : column + reach + 1])
    if window.max() < MINIMUM_HEAT:
        return point
    y, x = np.mgrid[top : top + window.shape[0], left : left + window.shape[1]]
    centroid = np.array([(x * window).sum(), (y * window).sum()]) / window.sum()
    return centroid * LANDMARK_SIZE / size


def _apply_sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.clip(-50, 50)))


def _warp_to_square(
    image: np.ndarray, matrix: np.ndarray, size: int, border: int = cv2.BORDER_CONSTANT
) -> np.ndarray:
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)
