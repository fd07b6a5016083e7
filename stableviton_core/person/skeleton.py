"""Body parts from a skeleton and the person's outline: an approximation without a DensePose or
parsing network.

Every pixel of the person gets the part of the nearest bone, its distance divided by the bone's
thickness.
"""

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np

from ..errors import StableVITONError
from . import densepose
from .labels import CIHP
from .pose import BONES, Pose

# Half thickness of limbs, in shoulder widths.
UPPER_ARM, LOWER_ARM, HAND = 0.17, 0.14, 0.16
UPPER_LEG, LOWER_LEG, FOOT = 0.28, 0.2, 0.2
HEAD, TORSO = 0.36, 0.12
MAXIMUM_DISTANCE = 8.0  # of a pixel of the person from its bone, in thicknesses
HAND_LENGTH, FOOT_LENGTH = 0.4, 0.35  # of the forearm, of the lower leg
COLLAR = 0.15  # of the way from the neck to the head's centre, that counts as the torso
GROIN = 0.2  # of the upper leg, that counts as the torso, for tops reach over the hips
THIGH = 0.8  # of the torso's length, where the pose has no knee
LINE_WIDTH, DOT_SIZE = 0.06, 0.08  # of a drawn skeleton, in shoulder widths

Shape = list[np.ndarray]  # corners of a polygon; two are a line

PARTS_OF_LABEL = {
    "upper": densepose.TORSO_PARTS,
    "face": densepose.HEAD_PARTS,
    "glove": densepose.HANDS.values(),
    "left_arm": (*densepose.UPPER_ARM_PARTS["left"], *densepose.LOWER_ARM_PARTS["left"]),
    "right_arm": (*densepose.UPPER_ARM_PARTS["right"], *densepose.LOWER_ARM_PARTS["right"]),
    "pants": densepose.LEG_PARTS,
    "left_shoe": (densepose.FEET["left"],),
    "right_shoe": (densepose.FEET["right"],),
}


def approximate_parts(pose: Pose, outline: np.ndarray) -> np.ndarray:
    """DensePose part indices H x W uint8 within a person's outline (H x W bool), all frontal.
    StableVITONError where the pose lacks a shoulder or lies outside the outline."""
    width = measure_shoulder_width(pose)
    nearest = np.full(outline.shape, np.inf, np.float32)
    parts = np.zeros(outline.shape, np.uint8)
    for part, shape, thickness in _list_shapes(pose, width):
        distance = _measure_distance(shape, outline.shape) / thickness
        nearer = distance < nearest
        nearest[nearer] = distance[nearer]
        parts[nearer] = part
    parts = np.where(outline & (nearest < MAXIMUM_DISTANCE * width), parts, 0).astype(np.uint8)
    if not parts.any():
        raise StableVITONError("the pose lies outside the person's outline. Take another photo.")
    return parts


def approximate_parse(parts: np.ndarray) -> np.ndarray:
    """Part indices -> labels in CIHP ids. DensePose has neither hair nor sleeves: the head becomes
    face, arms are bare, legs are trousers. Hands become gloves, to tell them from arms."""
    table = np.zeros(densepose.PARTS + 1, np.uint8)
    for name, indices in PARTS_OF_LABEL.items():
        table[list(indices)] = CIHP.index(name)
    return table[parts]


def measure_shoulder_width(pose: Pose) -> float:
    """Pixels, at least 1. StableVITONError where the pose lacks a shoulder."""
    if not pose.has("right_shoulder", "left_shoulder"):
        raise StableVITONError(
            "the pose lacks a shoulder, so the body cannot be drawn from it. Take a photo that "
            "shows both shoulders."
        )
    return max(float(np.linalg.norm(pose["left_shoulder"] - pose["right_shoulder"])), 1.0)


def _extend_limb(joint: np.ndarray, last: np.ndarray, length: float) -> Shape:
    """The hand or foot beyond a limb's last joint. length: relative to that bone."""
    tip = last + length * (last - joint)
    return [last + 0.3 * (tip - last), tip]


def locate_hips(pose: Pose, width: float) -> list[np.ndarray]:
    """The right and the left hip. A missing one is assumed a shoulder width beside the other; both
    1.5 shoulder widths below the shoulders."""
    right, left = pose["right_shoulder"], pose["left_shoulder"]
    if pose.has("right_hip", "left_hip"):
        return [pose["right_hip"], pose["left_hip"]]
    if pose.has("right_hip"):
        return [pose["right_hip"], pose["right_hip"] + (left - right)]
    if pose.has("left_hip"):
        return [pose["left_hip"] + (right - left), pose["left_hip"]]
    return [right + (0, 1.5 * width), left + (0, 1.5 * width)]


def _list_shapes(pose: Pose, width: float) -> list[tuple[int, Shape, float]]:
    """Part index, shape and thickness, in shoulder widths, of the parts that a pose shows."""
    shapes: list[tuple[int, Shape, float]] = []
    right, left = pose["right_shoulder"], pose["left_shoulder"]
    hips = locate_hips(pose, width)
    head, neck = _locate_head(pose, width), (right + left) / 2
    collar = neck + COLLAR * (head - neck)
    shapes.append((densepose.TORSO, [right, collar, left, hips[1], hips[0]], TORSO))
    shapes.append((densepose.HEAD, [head] * 2, HEAD))
    for side in ("right", "left"):
        shoulder, elbow, wrist = (f"{side}_{joint}" for joint in ("shoulder", "elbow", "wrist"))
        if pose.has(elbow):
            shapes.append((densepose.UPPER_ARMS[side], [pose[shoulder], pose[elbow]], UPPER_ARM))
        if pose.has(elbow, wrist):
            shapes.append((densepose.LOWER_ARMS[side], [pose[elbow], pose[wrist]], LOWER_ARM))
            hand = _extend_limb(pose[elbow], pose[wrist], HAND_LENGTH)
            shapes.append((densepose.HANDS[side], hand, HAND))
    down = THIGH * ((hips[0] + hips[1]) / 2 - neck)
    for side, hip in zip(("right", "left"), hips, strict=True):
        knee, ankle = f"{side}_knee", f"{side}_ankle"
        bend = pose[knee] if pose.has(knee) else hip + down
        shapes.append((densepose.UPPER_LEGS[side], [hip + GROIN * (bend - hip), bend], UPPER_LEG))
        if pose.has(knee, ankle):
            shapes.append((densepose.LOWER_LEGS[side], [bend, pose[ankle]], LOWER_LEG))
            foot = _extend_limb(bend, pose[ankle], FOOT_LENGTH)
            shapes.append((densepose.FEET[side], foot, FOOT))
    return shapes


def find_left_side(size: tuple[int, ...], pose: Pose | None, joints: Sequence[str]) -> np.ndarray:
    """Where a pixel is nearer to the person's left limb (joints such as shoulder, elbow, wrist)
    than to the right one, H x W bool; the right half of the image where the pose has neither."""
    distances = {}
    for side in ("left", "right"):
        names = [f"{side}_{joint}" for joint in joints]
        points = [pose[name] for name in names if pose is not None and pose.has(name)]
        bones = list(pairwise(points)) or [(point, point) for point in points]
        lines = [_measure_distance(list(bone), size) for bone in bones]
        distances[side] = np.minimum.reduce([np.full(size, np.inf, np.float32), *lines])
    if all(np.isinf(distance).all() for distance in distances.values()):
        return np.broadcast_to(np.arange(size[1]) >= size[1] / 2, size)
    return distances["left"] < distances["right"]


def _locate_head(pose: Pose, width: float) -> np.ndarray:
    names = ("nose", "right_eye", "left_eye", "right_ear", "left_ear")
    points = [pose[name] for name in names if pose.has(name)]
    if points:
        return np.mean(points, axis=0)
    return (pose["right_shoulder"] + pose["left_shoulder"]) / 2 - (0, 0.8 * width)


def _measure_distance(shape: Shape, size: tuple[int, ...]) -> np.ndarray:
    """The distance of every pixel from a filled polygon, H x W float32, pixels."""
    outside = np.ones(size, np.uint8)
    corners = np.round(np.stack(shape)).astype(np.int32)
    cv2.fillPoly(outside, [corners], 0)
    cv2.line(outside, tuple(corners[0].tolist()), tuple(corners[1].tolist()), 0)
    if outside.all():  # the polygon lies outside the image
        return np.full(size, np.inf, np.float32)
    return cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def draw_skeleton(pose: Pose, height: int, width: int) -> np.ndarray:
    """The bones on black, each in its own hue, H x W x 3 uint8 RGB."""
    canvas = np.zeros((height, width, 3), np.uint8)
    shoulders = pose.has("right_shoulder", "left_shoulder")
    scale = measure_shoulder_width(pose) if shoulders else pose.size() / 4
    line_width = max(1, round(LINE_WIDTH * scale))
    radius = max(1, round(DOT_SIZE * scale / 2))
    hues = np.linspace(0, 179, len(BONES), endpoint=False, dtype=np.uint8)
    colours = cv2.cvtColor(
        np.stack([hues, np.full_like(hues, 255), np.full_like(hues, 255)], axis=-1)[None],
        cv2.COLOR_HSV2RGB,
    )[0]
    for (start, end), colour in zip(BONES, colours.tolist(), strict=True):
        if pose.has(start, end):
            ends = [tuple(np.round(pose[name]).astype(int).tolist()) for name in (start, end)]
            cv2.line(canvas, ends[0], ends[1], colour, line_width, cv2.LINE_AA)
            for point in ends:
                cv2.circle(canvas, point, radius, colour, -1, cv2.LINE_AA)
    return canvas
