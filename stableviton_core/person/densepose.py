"""DensePose: body parts, and the colours in which StableVITON was trained on them."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError

PARTS = 24
TOLERANCE = 24.0  # mean distance (levels of 255) of a picture's colours from the palette's

# DensePose's part indices: torso back and front, hands, feet, then limbs back and front.
TORSO, HEAD = 2, 23
HANDS = {"right": 3, "left": 4}
FEET = {"left": 5, "right": 6}
UPPER_LEGS = {"right": 9, "left": 10}
LOWER_LEGS = {"right": 13, "left": 14}
UPPER_ARMS = {"left": 15, "right": 16}
LOWER_ARMS = {"left": 19, "right": 20}
TORSO_PARTS, HEAD_PARTS = (1, 2), (23, 24)
UPPER_ARM_PARTS = {"left": (15, 17), "right": (16, 18)}
LOWER_ARM_PARTS = {"left": (19, 21), "right": (20, 22)}


class DensePoseError(UserError):
    """A DensePose image or model that cannot be used."""


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
    nearest colour of the palette that fits better. DensePoseError where neither fits."""
    palettes = {"Parula": part_palette(), "Viridis": _viridis_palette()}
    viridis_black = np.concatenate([[[0, 0, 0]], palettes["Viridis"][1:]])
    found = {
        name: _nearest(image, palette)
        for name, palette in (*palettes.items(), ("Viridis on black", viridis_black))
    }
    parts, distance = min(found.values(), key=lambda pair: pair[1])
    if distance > TOLERANCE:
        raise DensePoseError(
            "this is no DensePose image: its colours are on average "
            f"{distance:.0f} of 255 levels away from Parula's and Viridis'. Expected the parts' "
            "colours without blending, as a DensePose node draws them."
        )
    return parts


def _nearest(image: np.ndarray, palette: np.ndarray) -> tuple[np.ndarray, float]:
    """Palette indices H x W, and the mean distance per channel."""
    colours, inverse = np.unique(image.reshape(-1, 3), axis=0, return_inverse=True)
    distances = np.abs(colours[:, None].astype(int) - palette[None]).mean(axis=-1)
    indices = distances.argmin(axis=1).astype(np.uint8)
    nearest = distances.min(axis=1)[inverse.reshape(-1)]
    return indices[inverse.reshape(-1)].reshape(image.shape[:2]), float(nearest.mean())


def parts_of_person(
    boxes: Tensor, coarse: Tensor, fine: Tensor, person: int, height: int, width: int
) -> np.ndarray:
    """Part indices H x W uint8 of one detected person from the outputs of a DensePose network.

    boxes N x 4 (left, top, right, bottom), coarse N x 2 x h x w, fine N x 25 x h x w.
    """
    left, top, right, bottom = (int(value) for value in boxes[person].tolist())
    size = (max(bottom - top, 1), max(right - left, 1))
    labels, body = (
        F.interpolate(scores[person][None].float(), size=size, mode="bilinear")[0].argmax(dim=0)
        for scores in (fine, coarse)
    )
    found = torch.where(body > 0, labels, 0).to(torch.uint8).cpu().numpy()
    parts = np.zeros((height, width), np.uint8)
    rows = slice(max(top, 0), min(top + size[0], height))
    columns = slice(max(left, 0), min(left + size[1], width))
    parts[rows, columns] = found[
        rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
    ]
    return parts


def chosen_person(boxes: Tensor, point: tuple[float, float] | None = None) -> int:
    """The largest box, or the one whose centre is nearest to a point (x, y). DensePoseError where
    nobody was found."""
    if len(boxes) == 0:
        raise DensePoseError(
            "DensePose found nobody in this picture. Frame the person larger, or use another photo."
        )
    left, top, right, bottom = boxes.unbind(dim=1)
    if point is None:
        return int(((right - left) * (bottom - top)).argmax())
    x, y = (left + right) / 2 - point[0], (top + bottom) / 2 - point[1]
    return int((x.square() + y.square()).argmin())
