"""Body parts from a skeleton and the person's outline: an approximation for when there is neither a
DensePose nor a parsing network.

Every pixel of the person belongs to the bone that is nearest, measured in the bone's own thickness.
"""

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
FARTHEST = 8.0  # thicknesses from its bone that a pixel of the person may lie
HAND_LENGTH, FOOT_LENGTH = 0.4, 0.35  # of the forearm, of the lower leg
COLLAR = 0.15  # of the way from the neck's joint to the head's middle: what clothes may cover
GROIN = 0.2  # of the upper leg, that counts as the torso: tops reach over the hips
THIGH = 0.8  # of the torso's length, where the knees are out of the picture
LINE, DOT = 0.06, 0.08  # of a drawn skeleton, in shoulder widths

Shape = list[np.ndarray]  # corners of a polygon; two are a line

PARSE_OF = {
    "upper": densepose.TORSO_PARTS,
    "face": densepose.HEAD_PARTS,
    "glove": densepose.HANDS.values(),
    "left_arm": (*densepose.UPPER_ARM_PARTS["left"], *densepose.LOWER_ARM_PARTS["left"]),
    "right_arm": (*densepose.UPPER_ARM_PARTS["right"], *densepose.LOWER_ARM_PARTS["right"]),
    "pants": densepose.LEG_PARTS,
    "left_shoe": (densepose.FEET["left"],),
    "right_shoe": (densepose.FEET["right"],),
}


def approximate_parts(pose: Pose, person: np.ndarray) -> np.ndarray:
    """DensePose part indices H x W uint8 of a person's outline (H x W bool, this person's alone),
    all from the front. StableVITONError where the pose lacks shoulders or lies elsewhere."""
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
        raise StableVITONError("the pose lies outside the person's outline. Take another photo.")
    return parts


def approximate_parse(parts: np.ndarray) -> np.ndarray:
    """Part indices -> labels in CIHP ids. Parts know neither hair nor sleeves: the head is all
    face, arms are bare, legs are trousers. Hands are gloves, to tell them from arms."""
    table = np.zeros(densepose.PARTS + 1, np.uint8)
    for name, own in PARSE_OF.items():
        table[list(own)] = CIHP.index(name)
    return table[parts]


def shoulder_width(pose: Pose) -> float:
    if not pose.has("right_shoulder", "left_shoulder"):
        raise StableVITONError(
            "the pose lacks a shoulder, so the body cannot be drawn from it. Take a photo that "
            "shows both shoulders."
        )
    return max(float(np.linalg.norm(pose["left_shoulder"] - pose["right_shoulder"])), 1.0)


def _end(joint: np.ndarray, last: np.ndarray, length: float) -> Shape:
    """A hand or a foot beyond a limb's last joint, of a share of that bone."""
    tip = last + length * (last - joint)
    return [last + 0.3 * (tip - last), tip]


def hips_of(pose: Pose, width: float) -> list[np.ndarray]:
    """The right and the left hip. One that is missing lies a shoulder width beside the other; both
    lie 1.5 shoulder widths below the shoulders."""
    right, left = pose["right_shoulder"], pose["left_shoulder"]
    if pose.has("right_hip", "left_hip"):
        return [pose["right_hip"], pose["left_hip"]]
    if pose.has("right_hip"):
        return [pose["right_hip"], pose["right_hip"] + (left - right)]
    if pose.has("left_hip"):
        return [pose["left_hip"] + (right - left), pose["left_hip"]]
    return [right + (0, 1.5 * width), left + (0, 1.5 * width)]


def _shapes(pose: Pose, width: float) -> list[tuple[int, Shape, float]]:
    """Part index, shape and thickness of what the pose holds."""
    shapes: list[tuple[int, Shape, float]] = []
    right, left = pose["right_shoulder"], pose["left_shoulder"]
    hips = hips_of(pose, width)
    head, neck = _head(pose, width), (right + left) / 2
    collar = neck + COLLAR * (head - neck)
    shapes.append((densepose.TORSO, [right, collar, left, hips[1], hips[0]], TORSO))
    shapes.append((densepose.HEAD, [head] * 2, HEAD))
    for side in ("right", "left"):
        shoulder, elbow, wrist = (f"{side}_{joint}" for joint in ("shoulder", "elbow", "wrist"))
        if pose.has(elbow):
            shapes.append((densepose.UPPER_ARMS[side], [pose[shoulder], pose[elbow]], UPPER_ARM))
        if pose.has(elbow, wrist):
            shapes.append((densepose.LOWER_ARMS[side], [pose[elbow], pose[wrist]], LOWER_ARM))
            hand = _end(pose[elbow], pose[wrist], HAND_LENGTH)
            shapes.append((densepose.HANDS[side], hand, HAND))
    down = THIGH * ((hips[0] + hips[1]) / 2 - neck)
    for side, hip in zip(("right", "left"), hips, strict=True):
        knee, ankle = f"{side}_knee", f"{side}_ankle"
        bend = pose[knee] if pose.has(knee) else hip + down
        shapes.append((densepose.UPPER_LEGS[side], [hip + GROIN * (bend - hip), bend], UPPER_LEG))
        if pose.has(knee, ankle):
            shapes.append((densepose.LOWER_LEGS[side], [bend, pose[ankle]], LOWER_LEG))
            shapes.append((densepose.FEET[side], _end(bend, pose[ankle], FOOT_LENGTH), FOOT))
    return shapes


def nearer_left(size: tuple[int, ...], pose: Pose | None, joints: tuple[str, ...]) -> np.ndarray:
    """Whether a pixel is nearer to the person's left limb (of joints such as shoulder, elbow,
    wrist) than to the right one, H x W bool; by the halves of the picture without the limbs."""
    distances = {}
    for side in ("left", "right"):
        there = [
            pose[f"{side}_{joint}"]
            for joint in joints
            if pose is not None and pose.has(f"{side}_{joint}")
        ]
        bones = list(zip(there, there[1:], strict=False)) or [(point, point) for point in there]
        lines = [_distance(list(bone), size) for bone in bones]
        distances[side] = np.minimum.reduce([np.full(size, np.inf, np.float32), *lines])
    if all(np.isinf(distance).all() for distance in distances.values()):
        return np.broadcast_to(np.arange(size[1]) >= size[1] / 2, size)
    return distances["left"] < distances["right"]


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
