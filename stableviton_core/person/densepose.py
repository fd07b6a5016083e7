"""DensePose: body parts, the colours of DensePose images, and the outputs of its network."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import StableVITONError
from .labels import UNKNOWN_SHARE, match_palette
from .pose import choose_person

PARTS = 24

# DensePose's part indices: torso back and front, hands, feet, then limbs back and front.
TORSO, HEAD = 2, 23
HANDS = {"right": 3, "left": 4}
FEET = {"left": 5, "right": 6}
UPPER_LEGS = {"right": 9, "left": 10}
LOWER_LEGS = {"right": 13, "left": 14}
UPPER_ARMS = {"left": 15, "right": 16}
LOWER_ARMS = {"left": 19, "right": 20}
TORSO_PARTS = (1, 2)
HEAD_PARTS = (23, 24)
UPPER_ARM_PARTS = {"left": (15, 17), "right": (16, 18)}
LOWER_ARM_PARTS = {"left": (19, 21), "right": (20, 22)}
LEG_PARTS = tuple(range(7, 15))
UPPER_LEG_PARTS = {"left": (8, 10), "right": (7, 9)}
LOWER_LEG_PARTS = {"left": (12, 14), "right": (11, 13)}


def _make_palette(colour_map: int) -> np.ndarray:
    """Entries uint8(i * 255 / 24) of an OpenCV colour map by part index i, 25 x 3 uint8 RGB."""
    levels = (np.arange(PARTS + 1) * 255 / PARTS).astype(np.uint8)
    return cv2.applyColorMap(levels[:, None], colour_map)[:, 0, ::-1].copy()  # BGR -> RGB


PARULA_PALETTE = _make_palette(cv2.COLORMAP_PARULA)  # VITON-HD `image-densepose`
PARULA_PALETTE[0] = 0
VIRIDIS_PALETTE = _make_palette(cv2.COLORMAP_VIRIDIS)  # comfyui_controlnet_aux's default
VIRIDIS_ON_BLACK = np.concatenate([np.zeros((1, 3), np.uint8), VIRIDIS_PALETTE[1:]])


def colour_parts(parts: np.ndarray) -> np.ndarray:
    """Part indices H x W (0..24) -> DensePose image H x W x 3 uint8 RGB in Parula on black."""
    return PARULA_PALETTE[parts]


def decode_parts(image: np.ndarray) -> np.ndarray:
    """DensePose image H x W x 3 uint8 RGB in Parula or Viridis -> part indices H x W uint8, by the
    palette that matches best. StableVITONError where none does, or where the image is empty."""
    palettes = (PARULA_PALETTE, VIRIDIS_PALETTE, VIRIDIS_ON_BLACK)
    matches = [match_palette(image, palette) for palette in palettes]
    parts, unknown = min(matches, key=lambda match: match[1])
    if unknown <= UNKNOWN_SHARE:
        return parts
    if unknown == 1 and not parts.any():
        raise StableVITONError("this is no DensePose image: it is empty.")
    raise StableVITONError(
        f"this is no DensePose image: {unknown:.0%} of what is not its background has neither "
        "Parula's nor Viridis' colours. Expected the parts' colours without blending, as a "
        "DensePose node draws them."
    )


def draw_parts(
    boxes: Tensor, coarse: Tensor, fine: Tensor, person: int, height: int, width: int
) -> np.ndarray:
    """Part indices H x W uint8 of one detected person from the outputs of a DensePose network.

    boxes N x 4 (left, top, right, bottom), coarse N x 2 x h x w, fine N x 25 x h x w. The box is
    cut to whole pixels as DensePose's own resampling does it: corner and size, each rounded down.
    StableVITONError where nothing of the person lies in the image.
    """
    x0, y0, x1, y1 = boxes[person].tolist()
    left, top = int(x0), int(y0)
    size = (max(int(y1 - y0), 1), max(int(x1 - x0), 1))
    labels, body = (
        F.interpolate(scores[person][None].float(), size=size, mode="bilinear")[0].argmax(dim=0)
        for scores in (fine, coarse)
    )
    inside = torch.where(body > 0, labels, 0).to(torch.uint8).cpu().numpy()
    parts = np.zeros((height, width), np.uint8)
    rows = slice(max(top, 0), min(top + size[0], height))
    columns = slice(max(left, 0), min(left + size[1], width))
    if rows.start < rows.stop and columns.start < columns.stop:
        parts[rows, columns] = inside[
            rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]
    if not parts.any():
        raise StableVITONError("DensePose found no body part in its box. Use another photo.")
    return parts


def choose_box(boxes: Tensor, point: tuple[float, float] | None = None) -> int:
    """The index of the largest box, or of the one whose centre is nearest to a point (x, y).
    StableVITONError without any."""
    if len(boxes) == 0:
        raise StableVITONError(
            "DensePose found nobody in this image. Crop it to the person, or use another photo."
        )
    corners = boxes.cpu().numpy()
    sizes = (corners[:, 2:] - corners[:, :2]).prod(axis=1)
    return choose_person(sizes, (corners[:, :2] + corners[:, 2:]) / 2, point)
