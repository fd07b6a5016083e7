"""The colour coding of the DensePose image that StableVITON was trained on."""

import cv2
import numpy as np

PARTS = 24


def part_palette() -> np.ndarray:
    """Colours of DensePose part indices, 25 x 3 uint8 RGB.

    Index 0 (background) is black; index i is entry uint8(i * 255 / 24) of OpenCV's PARULA map
    (VITON-HD `image-densepose`).
    """
    levels = (np.arange(PARTS + 1) * 255 / PARTS).astype(np.uint8)
    palette = cv2.applyColorMap(levels[:, None], cv2.COLORMAP_PARULA)[
        :, 0, ::-1
    ].copy()  # BGR -> RGB
    palette[0] = 0
    return palette


def colour_parts(parts: np.ndarray) -> np.ndarray:
    """Part-index image H x W (0..24) -> DensePose image H x W x 3, uint8 RGB."""
    return part_palette()[parts]
