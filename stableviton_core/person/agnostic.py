"""Agnostic masks: which pixels of a person are generated anew."""

from collections.abc import Collection, Sequence

import cv2
import numpy as np

from ..errors import StableVITONError
from ..images import GREY_LEVEL
from .densepose import HANDS, LEG_PARTS, LOWER_ARM_PARTS, TORSO_PARTS, UPPER_ARM_PARTS
from .labels import region
from .pose import ARMS, Pose
from .skeleton import hips_of

HEAD = ("sunglasses", "face")
LOWER = ("pants", "skirt", "left_leg", "right_leg", "left_shoe", "right_shoe")
ARM_LABELS = ("left_arm", "right_arm")  # in the order of ARMS

# The rule "parse+pose": what a category replaces, and what it keeps besides the head.
GARMENTS = {
    "upper": ("upper", "coat", "dress", "scarf"),
    "lower": ("pants", "skirt", "dress"),
    "dress": ("upper", "coat", "dress", "scarf", "pants", "skirt"),
}
KEPT = {
    "upper": ("pants", "skirt", "left_leg", "right_leg"),
    "lower": ("upper", "coat", "scarf", "left_arm", "right_arm", "torso_skin"),
    "dress": (),
}
ALWAYS_KEPT = ("hat", "sunglasses", "face", "left_shoe", "right_shoe")
WORKING_HEIGHT = 512  # of the grid in which the widths below are given
ARM_WIDTH, GARMENT_MARGIN = 60, 8
SLEEVES = {"long": 2, "short": 1, "as worn": 0}  # segments of the arm


class Strokes:
    """Shapes drawn into a mask, as PIL draws them: lines with square ends."""

    def __init__(self, height: int, width: int):
        self.mask = np.zeros((height, width), np.uint8)

    def ellipse(self, centre: np.ndarray, x: float, y: float) -> None:
        """x, y: half axes."""
        axes = (max(1, round(x)), max(1, round(y)))
        cv2.ellipse(self.mask, _pixel(centre), axes, 0, 0, 360, 255, -1)

    def line(self, start: np.ndarray, end: np.ndarray, width: float) -> None:
        along = end - start
        length = float(np.linalg.norm(along))
        if length == 0:
            return
        across = np.array([-along[1], along[0]]) / length * width / 2
        self.polygon([start + across, end + across, end - across, start - across])

    def polygon(self, corners: Sequence[np.ndarray]) -> None:
        cv2.fillPoly(self.mask, [np.round(np.stack(corners)).astype(np.int32)], 255)

    def rectangle(self, left: float, top: float, right: float, bottom: float) -> None:
        self.polygon(
            [np.array(p) for p in ((left, top), (right, top), (right, bottom), (left, bottom))]
        )


def _pixel(point: np.ndarray) -> tuple[int, int]:
    return int(round(point[0])), int(round(point[1]))


def viton_hd_mask(parse: np.ndarray, pose: Pose) -> np.ndarray:
    """The agnostic mask of VITON-HD's agnostic-v3.2 (HR-VITON, get_agnostic), H x W bool.

    parse: H x W label map in CIHP ids. The torso, neck and arms are drawn from the pose, then the
    hands, face and lower body are taken out again. Without hips they are put below the shoulders.
    StableVITONError where a shoulder is missing.
    """
    right, left, hips, unit = _torso(pose)
    strokes = Strokes(*parse.shape)
    for hip in hips:
        strokes.ellipse(hip, 3 * unit, 6 * unit)
    strokes.line(right, hips[0], 6 * unit)
    strokes.line(left, hips[1], 6 * unit)
    strokes.line(hips[0], hips[1], 12 * unit)
    strokes.polygon([right, left, hips[1], hips[0]])
    x, y = pose["neck"] if pose.has("neck") else (right + left) / 2
    strokes.rectangle(x - 5 * unit, y - 9 * unit, x + 5 * unit, y)
    strokes.line(right, left, 12 * unit)
    for shoulder in (right, left):
        strokes.ellipse(shoulder, 5 * unit, 6 * unit)
    for arm in ARMS:
        for start, end in zip(arm, arm[1:], strict=False):
            if pose.has(start, end):
                strokes.line(pose[start], pose[end], 10 * unit)
                strokes.ellipse(pose[end], 5 * unit, 5 * unit)
    mask = strokes.mask > 0
    for arm, label in zip(ARMS, ARM_LABELS, strict=True):
        mask &= ~(region(parse, label) & ~_sleeve(parse.shape, pose, arm, unit))
    return mask & ~region(parse, *HEAD, *LOWER)


def _torso(pose: Pose) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray], float]:
    """Right and left shoulder, the hips (right, left) at the shoulders' distance, and the unit of
    the strokes' widths."""
    if not pose.has("right_shoulder", "left_shoulder"):
        raise StableVITONError(
            "this rule draws from shoulder to shoulder, and the pose lacks one. Take a photo that "
            "shows both, or the rule 'densepose'."
        )
    right, left = pose["right_shoulder"], pose["left_shoulder"]
    width = float(np.linalg.norm(left - right))
    hips = hips_of(pose, width)
    middle, span = (hips[0] + hips[1]) / 2, float(np.linalg.norm(hips[1] - hips[0]))
    if span > 0:
        hips = [middle + (hip - middle) / span * width for hip in hips]
    return right, left, (hips[0], hips[1]), int(width / 16) + 1


def _sleeve(shape: tuple[int, ...], pose: Pose, arm: Sequence[str], unit: float) -> np.ndarray:
    """Where an arm is generated anew: all of it but the hand."""
    shoulder, *joints = arm
    strokes = Strokes(*shape[:2])
    strokes.ellipse(pose[shoulder], 5 * unit, 6 * unit)
    last = pose[shoulder]
    for start, end in zip(arm, joints, strict=False):
        if not pose.has(start, end):
            continue
        last = pose[end]
        strokes.line(pose[start], last, 10 * unit)
        if end != joints[-1]:
            strokes.ellipse(last, 5 * unit, 5 * unit)
    strokes.ellipse(last, 4 * unit, 4 * unit)
    return strokes.mask > 0


def parse_pose_mask(
    parse: np.ndarray,
    pose: Pose,
    category: str = "upper",
    keep_hands: bool = True,
    keep_hair: bool = True,
    sleeves: str = "long",
    person: np.ndarray | None = None,
    gloves_are_hands: bool = False,
) -> np.ndarray:
    """The mask of OOTDiffusion's family, H x W bool: the category's garments with a margin, the
    bare neck, and strokes along the arms; without the head and the other garments. (There the wrist
    is moved a fifth outwards; here hands are told from arms instead.)

    parse: H x W label map in CIHP ids. keep_hands: leave what lies beyond the wrists. sleeves: how
    far the strokes along the arms reach: long (whole arms), short (upper arms), or "as worn" (none,
    only the garment). person: H x W bool, the chosen one's outline; labels outside it are others'.
    gloves_are_hands: the label map tells hands from arms by the label glove. Where it does not, an
    arm whose hand is to be kept and whose wrist or elbow is missing has only its strokes.
    """
    _check_choice("category", category, GARMENTS)
    _check_choice("sleeves", sleeves, SLEEVES)
    if person is not None:
        parse = np.where(person, parse, 0)
    unit = parse.shape[0] / WORKING_HEIGHT
    mask = grown(region(parse, *GARMENTS[category]), GARMENT_MARGIN * unit)
    strokes = _arm_strokes(parse.shape, pose, sleeves, ARM_WIDTH * unit)
    if category == "lower":
        mask |= region(parse, "left_leg", "right_leg")
    else:
        mask |= region(parse, "torso_skin") | strokes
        if sleeves == "long":
            mask |= region(parse, *ARM_LABELS, "glove")
    mask = _without_holes(mask)
    kept = region(parse, *ALWAYS_KEPT, *KEPT[category])
    if keep_hair:
        kept |= region(parse, "hair")
    if keep_hands and gloves_are_hands:
        kept |= region(parse, "glove")
    elif keep_hands:
        kept |= hands(parse, pose)
        for (_, elbow, wrist), label in zip(ARMS, ARM_LABELS, strict=True):
            if not pose.has(elbow, wrist):
                kept |= region(parse, label) & ~strokes
    return mask & ~kept


def hands(parse: np.ndarray, pose: Pose) -> np.ndarray:
    """What of the arms' labels lies beyond the wrists, H x W bool."""
    found = region(parse, "glove")
    for (_, elbow, wrist), label in zip(ARMS, ARM_LABELS, strict=True):
        if not pose.has(elbow, wrist):
            continue
        along = pose[wrist] - pose[elbow]
        length = float(np.linalg.norm(along))
        if length == 0:
            continue
        rows, columns = np.nonzero(region(parse, label))
        x, y = columns - pose[wrist][0], rows - pose[wrist][1]
        beyond = (x * along[0] + y * along[1] >= 0) & (np.hypot(x, y) <= _reach(pose, length))
        found[rows[beyond], columns[beyond]] = True
    return found


def _reach(pose: Pose, forearm: float) -> float:
    """How far a hand reaches: a forearm, or half the shoulders where that points at the viewer."""
    if not pose.has("right_shoulder", "left_shoulder"):
        return forearm
    return max(forearm, float(np.linalg.norm(pose["left_shoulder"] - pose["right_shoulder"])) / 2)


def _check_choice(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise StableVITONError(f"{name} is one of {', '.join(choices)}, got {value!r}")


def _arm_strokes(shape: tuple[int, ...], pose: Pose, sleeves: str, width: float) -> np.ndarray:
    strokes = Strokes(*shape[:2])
    for arm in ARMS:
        for start, end in list(zip(arm, arm[1:], strict=False))[: SLEEVES[sleeves]]:
            if pose.has(start, end):
                strokes.line(pose[start], pose[end], width)
                strokes.ellipse(pose[start], width / 2, width / 2)
    return strokes.mask > 0


def densepose_mask(
    parts: np.ndarray, category: str = "upper", keep_hands: bool = True, sleeves: str = "long"
) -> np.ndarray:
    """A mask of body parts alone, H x W bool, with a margin for cloth that DensePose does not see:
    torso and arms, or the legs. sleeves: how much of the arms, as in `parse_pose_mask`."""
    _check_choice("category", category, GARMENTS)
    _check_choice("sleeves", sleeves, SLEEVES)
    segments = (UPPER_ARM_PARTS, LOWER_ARM_PARTS)[: SLEEVES[sleeves]]
    arms = [part for segment in segments for own in segment.values() for part in own]
    if sleeves == "long" and not keep_hands:
        arms += HANDS.values()
    chosen = {
        "upper": [*TORSO_PARTS, *arms],
        "lower": LEG_PARTS,
        "dress": [*TORSO_PARTS, *arms, *LEG_PARTS],
    }[category]
    margin = 2 * GARMENT_MARGIN * parts.shape[0] / WORKING_HEIGHT
    others = (parts > 0) & ~np.isin(parts, chosen)
    return grown(np.isin(parts, chosen), margin) & ~others


def fill_agnostic_region(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The agnostic image: grey where a mask H x W is not 0, H x W x 3 uint8."""
    return np.where(mask[..., None] > 0, np.uint8(GREY_LEVEL), image)


def grown(mask: np.ndarray, radius: float) -> np.ndarray:
    """A mask with all that is at most so many pixels away from it, and not less than one."""
    if not mask.any():
        return mask
    others = (~mask).astype(np.uint8)
    return cv2.distanceTransform(others, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= max(1.0, radius)


def _without_holes(mask: np.ndarray) -> np.ndarray:
    """Regions that the mask encloses belong to it."""
    outside = np.pad((~mask).astype(np.uint8), 1, constant_values=1)
    cv2.floodFill(outside, None, (0, 0), 2)
    return mask | (outside[1:-1, 1:-1] == 1)
