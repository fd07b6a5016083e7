"""DensePose: body parts, and the colours in which StableVITON was trained on them."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import StableVITONError
from .palette import FOREIGN, nearest_entries

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


def part_palette() -> np.ndarray:
    """Colours of DensePose part indices, 25 x 3 uint8 RGB.

    Index 0 (background) is black; index i is entry uint8(i * 255 / 24) of OpenCV's PARULA map
    (VITON-HD `image-densepose`).
    """
    palette = _colour_map(cv2.COLORMAP_PARULA)
    palette[0] = 0
    return palette


def _viridis_palette() -> np.ndarray:
    """comfyui_controlnet_aux's default colours, whose background is Viridis' first."""
    return _colour_map(cv2.COLORMAP_VIRIDIS)


def _colour_map(colours: int) -> np.ndarray:
    levels = (np.arange(PARTS + 1) * 255 / PARTS).astype(np.uint8)
    return cv2.applyColorMap(levels[:, None], colours)[:, 0, ::-1].copy()  # BGR -> RGB


def colour_parts(parts: np.ndarray) -> np.ndarray:
    """Part-index image H x W (0..24) -> DensePose image H x W x 3, uint8 RGB."""
    return part_palette()[parts]


def decode_parts(image: np.ndarray) -> np.ndarray:
    """DensePose image H x W x 3 uint8 RGB in Parula or Viridis -> part indices H x W uint8, by the
    nearest colour of the palette that fits better. StableVITONError where neither fits, or where it
    shows nobody."""
    viridis = _viridis_palette()
    on_black = np.concatenate([np.zeros((1, 3), np.uint8), viridis[1:]])
    parts, foreign = min(
        (nearest_entries(image, palette) for palette in (part_palette(), viridis, on_black)),
        key=lambda found: found[1],
    )
    if foreign > FOREIGN:
        raise StableVITONError(
            "this is no DensePose image: "
            + (
                "it is empty."
                if foreign == 1 and not parts.any()
                else f"{foreign:.0%} of what is not its ground has neither Parula's nor Viridis' "
                "colours. Expected the parts' colours without blending, as a DensePose node draws "
                "them."
            )
        )
    return parts


def parts_of_person(
    boxes: Tensor, coarse: Tensor, fine: Tensor, person: int, height: int, width: int
) -> np.ndarray:
    """Part indices H x W uint8 of one detected person from the outputs of a DensePose network.

    boxes N x 4 (left, top, right, bottom), coarse N x 2 x h x w, fine N x 25 x h x w. The box is
    cut to whole pixels as DensePose's own resampling does it: corner and size, each rounded down.
    StableVITONError where nothing of the person lies in the picture.
    """
    exact = boxes[person].tolist()
    left, top = int(exact[0]), int(exact[1])
    size = (max(int(exact[3] - exact[1]), 1), max(int(exact[2] - exact[0]), 1))
    labels, body = (
        F.interpolate(scores[person][None].float(), size=size, mode="bilinear")[0].argmax(dim=0)
        for scores in (fine, coarse)
    )
    found = torch.where(body > 0, labels, 0).to(torch.uint8).cpu().numpy()
    parts = np.zeros((height, width), np.uint8)
    rows = slice(max(top, 0), min(top + size[0], height))
    columns = slice(max(left, 0), min(left + size[1], width))
    if rows.start < rows.stop and columns.start < columns.stop:
        parts[rows, columns] = found[
            rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]
    if not parts.any():
        raise StableVITONError("DensePose found no body part in its box. Use another photo.")
    return parts


def chosen_person(boxes: Tensor, point: tuple[float, float] | None = None) -> int:
    """The largest box, or the one whose centre is nearest to a point (x, y). StableVITONError where
    nobody was found."""
    if len(boxes) == 0:
        raise StableVITONError(
            "DensePose found nobody in this picture. CropRegion the person larger, or use another photo."
        )
    left, top, right, bottom = boxes.unbind(dim=1)
    if point is None:
        return int(((right - left) * (bottom - top)).argmax())
    x, y = (left + right) / 2 - point[0], (top + bottom) / 2 - point[1]
    return int((x.square() + y.square()).argmin())
