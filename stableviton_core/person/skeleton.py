"""Body parts from a skeleton and the person's outline: an approximation for when there is neither a
DensePose nor a parsing network.

Every pixel of the person belongs to the bone that is nearest, measured in the bone's own thickness.
"""

import cv2
import numpy as np

from . import densepose
from .labels import CIHP
from .pose import BONES, Pose, PoseError

# Half thickness of limbs, in shoulder widths.
UPPER_ARM, LOWER_ARM, HAND = 0.17, 0.14, 0.16
UPPER_LEG, LOWER_LEG, FOOT = 0.28, 0.2, 0.2
HEAD, TORSO = 0.36, 0.12
FARTHEST = 8.0  # thicknesses from its bone that a pixel of the person may lie
HAND_LENGTH, FOOT_LENGTH = 0.4, 0.35  # of the forearm, of the lower leg
LINE, DOT = 0.06, 0.08  # of a drawn skeleton, in shoulder widths

PARSE_OF = {
    densepose.TORSO: "upper",
    densepose.HEAD: "face",
    **{densepose.HANDS[side]: f"{side}_arm" for side in ("left", "right")},
    **{densepose.UPPER_ARMS[side]: f"{side}_arm" for side in ("left", "right")},
    **{densepose.LOWER_ARMS[side]: f"{side}_arm" for side in ("left", "right")},
    **{densepose.UPPER_LEGS[side]: "pants" for side in ("left", "right")},
    **{densepose.LOWER_LEGS[side]: "pants" for side in ("left", "right")},
    **{densepose.FEET[side]: f"{side}_shoe" for side in ("left", "right")},
}


def approximate_parts(pose: Pose, person: np.ndarray) -> np.ndarray:
    """DensePose part indices H x W uint8 of a person's outline (H x W bool, this person's alone),
    all from the front. PoseError where the pose lacks shoulders or lies elsewhere."""
    width = shoulder_width(pose)
    best = np.full(person.shape, np.inf, np.float32)
    parts = np.zeros(person.shape, np.uint8)
    for part, shape, thickness in _shapes(pose, width):
        distance = _distance(shape, person.shape) / thickness
        nearer = distance < best
        best[nearer] = distance[nearer]
        parts[nearer] = part
    parts = np.where(person & (best < FARTHEST * width), parts, 0).astype(np.uint8)
    if not parts.any():
        raise PoseError("the pose lies outside the person's outline. Take another photo.")
    return parts


def approximate_parse(parts: np.ndarray) -> np.ndarray:
    """Part indices -> labels in CIHP ids. A skeleton knows neither hair nor sleeves: the head is
    all face, arms are bare, legs are trousers."""
    table = np.zeros(densepose.PARTS + 1, np.uint8)
    for part, name in PARSE_OF.items():
        table[part] = CIHP.index(name)
    return table[parts]


def shoulder_width(pose: Pose) -> float:
    if not pose.has("right_shoulder", "left_shoulder"):
        raise PoseError(
            "the pose lacks a shoulder, so the body cannot be drawn from it. Take a photo that "
            "shows both shoulders."
        )
    return max(float(np.linalg.norm(pose["left_shoulder"] - pose["right_shoulder"])), 1.0)


Shape = list[np.ndarray]  # corners of a polygon; two are a line


def _shapes(pose: Pose, width: float) -> list[tuple[int, Shape, float]]:
    """Part index, shape and thickness of what the pose holds."""
    shapes: list[tuple[int, Shape, float]] = []
    right, left = pose["right_shoulder"], pose["left_shoulder"]
    hips = [
        pose[f"{side}_hip"] if pose.has(f"{side}_hip") else shoulder + (0, 1.5 * width)
        for side, shoulder in (("right", right), ("left", left))
    ]
    shapes.append((densepose.TORSO, [right, left, hips[1], hips[0]], TORSO))
    shapes.append((densepose.HEAD, [_head(pose, width)] * 2, HEAD))
    for side in ("right", "left"):
        limbs = (
            ("shoulder", "elbow", "wrist", HAND_LENGTH),
            ("hip", "knee", "ankle", FOOT_LENGTH),
        )
        tables = (
            ((densepose.UPPER_ARMS, UPPER_ARM), (densepose.LOWER_ARMS, LOWER_ARM),
             (densepose.HANDS, HAND)),
            ((densepose.UPPER_LEGS, UPPER_LEG), (densepose.LOWER_LEGS, LOWER_LEG),
             (densepose.FEET, FOOT)),
        )  # fmt: skip
        for (*joints, length), (upper, lower, end) in zip(limbs, tables, strict=True):
            first, second, third = (f"{side}_{joint}" for joint in joints)
            if pose.has(first, second):
                shapes.append((upper[0][side], [pose[first], pose[second]], upper[1]))
            if pose.has(second, third):
                shapes.append((lower[0][side], [pose[second], pose[third]], lower[1]))
                tip = pose[third] + length * (pose[third] - pose[second])
                shapes.append(
                    (end[0][side], [pose[third] + 0.3 * (tip - pose[third]), tip], end[1])
                )
    return shapes


def _head(pose: Pose, width: float) -> np.ndarray:
    names = ("nose", "right_eye", "left_eye", "right_ear", "left_ear")
    seen = [pose[name] for name in names if pose.has(name)]
    if seen:
        return np.mean(seen, axis=0)
    return (pose["right_shoulder"] + pose["left_shoulder"]) / 2 - (0, 0.8 * width)


def _distance(shape: Shape, size: tuple[int, ...]) -> np.ndarray:
    """Of every pixel from a filled polygon, H x W float32, pixels."""
    outside = np.ones(size, np.uint8)
    corners = np.round(np.stack(shape)).astype(np.int32)
    cv2.fillPoly(outside, [corners], 0)
    cv2.line(outside, tuple(corners[0].tolist()), tuple(corners[1].tolist()), 0)
    if outside.all():  # it lies outside of the picture
        return np.full(size, np.inf, np.float32)
    return cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def draw_skeleton(pose: Pose, height: int, width: int) -> np.ndarray:
    """The bones on black, H x W x 3 uint8 RGB, a hue for each."""
    canvas = np.zeros((height, width, 3), np.uint8)
    scale = shoulder_width(pose) if pose.has("right_shoulder", "left_shoulder") else pose.size() / 4
    hues = np.linspace(0, 179, len(BONES), endpoint=False, dtype=np.uint8)
    colours = cv2.cvtColor(
        np.stack([hues, np.full_like(hues, 255), np.full_like(hues, 255)], axis=-1)[None],
        cv2.COLOR_HSV2RGB,
    )[0]
    for (start, end), colour in zip(BONES, colours.tolist(), strict=True):
        if pose.has(start, end):
            ends = [tuple(np.round(pose[name]).astype(int).tolist()) for name in (start, end)]
            cv2.line(canvas, ends[0], ends[1], colour, max(1, round(LINE * scale)), cv2.LINE_AA)
            for point in ends:
                cv2.circle(canvas, point, max(1, round(DOT * scale / 2)), colour, -1, cv2.LINE_AA)
    return canvas
