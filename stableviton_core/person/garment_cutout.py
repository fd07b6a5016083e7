"""Cuts a garment out of a photo: lying, hanging, or worn by a person.

Photos are H x W x 3 uint8 RGB, masks H x W float32 in 0..1.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from ..errors import StableVITONError
from .analysis import parse_person
from .bodies import OUTLINE_THRESHOLD, find_bodies
from .garment import WHITE, segment_garment
from .labels import select_labels
from .strokes import dilate, open_mask

# Labels of the garment that a person wears, by the mask's category. Parsers often see a dress as a
# top and a skirt.
WORN = {
    "upper": ("upper", "coat", "dress"),
    "lower": ("pants", "skirt"),
    "dress": ("dress", "upper", "coat", "skirt"),
}
IN_FRONT = ("glove", "left_arm", "right_arm", "hair")
SMALLEST_WORN = 0.01  # of the photo
HIDDEN = 0.12  # of the garment's longer side, across which what is in front of it is filled
SECOND_OBJECT = 0.1  # area of another object that is reported, of the garment's
BORDER = 0.02  # share of the photo's border on the garment, from which it is reported
PERSON = 0.2  # of the garment on a person's outline, from which it is reported
HOOK = 0.03  # of the garment's longer side: a hanger's hook is thinner, and stands out further
HOOK_WIDTH, HOOK_OFFSET = 0.2, 0.15  # of the garment's width: of the hook, and from the middle
TILT_SIZE, TILT_STEP, LARGEST_TILT = 96, 3, 45  # pixels, degrees
TILT_GAIN = 0.03  # of symmetry, from which a garment is turned


@dataclass(frozen=True, eq=False)
class CutOut:
    """warnings: why the cut-out may be wrong, a sentence each."""

    photo: np.ndarray
    mask: np.ndarray
    warnings: tuple[str, ...] = ()


def cut_out_garment(
    photo: np.ndarray, mask: np.ndarray | None = None, straighten: bool = True
) -> CutOut:
    """A garment that lies or hangs: by a mask, or what stands out from the background, without the
    hook of a hanger. straighten: turn it so that its left and right halves are alike.
    StableVITONError where nothing stands out."""
    warnings: list[str] = []
    if mask is None:
        mask = segment_garment(photo)
        warnings = _list_doubts(photo, mask > 0.5)
        mask = np.where(_find_hook(mask > 0.5), 0, mask).astype(np.float32)
    if straighten:
        photo, mask = _turn(photo, mask, find_tilt(mask > 0.5))
    return CutOut(photo, mask, tuple(warnings))


def cut_out_worn_garment(photo: np.ndarray, category: str) -> CutOut:
    """What the largest person of a photo wears of a category of WORN. Hands, arms and hair in front
    of it are filled from around. StableVITONError where that is nothing, NoPersonError where nobody
    is."""
    _, parse = parse_person(photo, category=category)
    worn = select_labels(parse, *WORN[category])
    if worn.mean() < SMALLEST_WORN:
        raise StableVITONError(
            f"no garment of the category {category!r} was found on the person of this photo. "
            "Choose another category, or give the garment's mask."
        )
    rows, columns = np.nonzero(worn)
    reach = HIDDEN * max(np.ptp(rows), np.ptp(columns)) / 2
    closed = dilate(dilate(np.pad(worn, int(reach) + 2), reach), -reach)
    margin = int(reach) + 2
    closed = closed[margin:-margin, margin:-margin]
    hidden = closed & ~worn & select_labels(parse, *IN_FRONT)
    warnings = _list_doubts(photo, worn | hidden, person=False)
    if hidden.any():
        photo = cv2.inpaint(photo, dilate(hidden, 2).astype(np.uint8), 5, cv2.INPAINT_TELEA)
        share = hidden.sum() / (worn | hidden).sum()
        warnings.append(
            f"{share:.0%} of the garment was behind hands, arms or hair, and is filled."
        )
    return CutOut(photo, (worn | hidden).astype(np.float32), tuple(warnings))


def _list_doubts(photo: np.ndarray, mask: np.ndarray, person: bool = True) -> list[str]:
    """person: whether one in the photo is reported."""
    doubts = []
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    if border.mean() > BORDER:
        doubts.append("The garment touches the photo's border: some of it may be missing.")
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = sorted(stats[1:, cv2.CC_STAT_AREA], reverse=True)
    if len(areas) > 1 and areas[1] > SECOND_OBJECT * areas[0]:
        doubts.append("Several objects stand out: give the garment's mask if one is not it.")
    for body in find_bodies(photo)[:1] if person else []:
        if (body.mask > OUTLINE_THRESHOLD)[mask].mean() > PERSON:
            doubts.append(
                "A person is in the cut-out: if the garment is worn, choose that the photo shows a "
                "person wearing it."
            )
    return doubts


def _find_hook(mask: np.ndarray) -> np.ndarray:
    """The hook of a hanger, H x W bool: a thin part over the garment's middle that stands out
    above it."""
    hook = np.zeros_like(mask)
    rows, columns = np.nonzero(mask)
    size = max(np.ptp(rows), np.ptp(columns))
    core = open_mask(mask, HOOK * size / 2)
    if HOOK * size < 2 or not core.any():
        return hook
    top = int(np.flatnonzero(core.any(axis=1))[0])
    core_columns = np.flatnonzero(core.any(axis=0))
    width, middle = np.ptp(core_columns), float(core_columns.mean())
    count, parts, boxes, centres = cv2.connectedComponentsWithStats(
        (mask & ~core).astype(np.uint8), connectivity=8
    )
    for part in range(1, count):
        above = top - boxes[part, cv2.CC_STAT_TOP]
        narrow = boxes[part, cv2.CC_STAT_WIDTH] < HOOK_WIDTH * width
        central = abs(centres[part, 0] - middle) < HOOK_OFFSET * width
        if above > HOOK * size and narrow and central:
            hook |= parts == part
    return hook


def find_tilt(mask: np.ndarray) -> float:
    """By how many degrees to turn a mask, counter-clockwise, so that it is most like its mirror
    image; 0 where that is no clear gain."""
    if not mask.any():
        return 0.0
    rows, columns = np.nonzero(mask)
    window = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    scale = TILT_SIZE / max(window.shape)
    fy, fx = (max(scale, 1 / side) for side in window.shape)  # a line keeps its pixel
    small = cv2.resize(window.astype(np.float32), None, fx=fx, fy=fy, interpolation=cv2.INTER_AREA)
    coarse = range(-LARGEST_TILT, LARGEST_TILT + 1, TILT_STEP)
    best = max(coarse, key=lambda angle: _measure_symmetry(small, angle))
    fine = range(best - TILT_STEP + 1, best + TILT_STEP)
    best = max(fine, key=lambda angle: _measure_symmetry(small, angle))
    gain = _measure_symmetry(small, best) - _measure_symmetry(small, 0)
    return float(best) if gain > TILT_GAIN else 0.0


def _measure_symmetry(mask: np.ndarray, angle: float) -> float:
    """Intersection over union of a turned mask and its mirror image, about its own axis."""
    turned = _rotate(mask, angle, 0) > 0.5
    columns = np.flatnonzero(turned.any(axis=0))
    if not len(columns):
        return 0.0
    weights = turned.sum(axis=0)
    axis = float((weights * np.arange(len(weights))).sum() / weights.sum())
    half = int(max(axis - columns[0], columns[-1] - axis)) + 1
    padded = np.pad(turned, ((0, 0), (half, half)))
    centre = round(axis) + half
    window = padded[:, centre - half : centre + half + 1]
    return float((window & window[:, ::-1]).sum() / (window | window[:, ::-1]).sum())


def _turn(photo: np.ndarray, mask: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    if angle == 0:
        return photo, mask
    return _rotate(photo, angle, WHITE), _rotate(mask, angle, 0)


def _rotate(image: np.ndarray, angle: float, border: int) -> np.ndarray:
    """Turned counter-clockwise by degrees, in a canvas that holds all of it."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1)
    cosine, sine = abs(matrix[0, 0]), abs(matrix[0, 1])
    size = (
        int(np.ceil(height * sine + width * cosine)),
        int(np.ceil(height * cosine + width * sine)),
    )
    matrix[:, 2] += (size[0] - width) / 2, (size[1] - height) / 2
    return cv2.warpAffine(
        image,
        matrix,
        size,
        flags=cv2.INTER_CUBIC if image.ndim == 3 else cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=[border] * 3,
    )
