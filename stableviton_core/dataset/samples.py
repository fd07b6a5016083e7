"""The images of a pair, decoded and brought to one size."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..images import check_size, read_image, read_mask
from .pairs import Pair, find_file


@dataclass(frozen=True)
class Sample:
    """The images of a pair: H x W x 3 uint8 RGB; masks H x W uint8.

    mask: 255 = generate, 0 = keep, soft at the edges of a resized one. warped_mask: 255 = the
    garment on the person, else 0. garment_coordinates: for
    each of these pixels its column and row on the garment image, both scaled to 0..255, in red and
    green; blue is 255 where they are known, else 0. The last two are None where unknown.
    """

    image: np.ndarray
    agnostic: np.ndarray
    mask: np.ndarray
    densepose: np.ndarray
    garment: np.ndarray
    warped_mask: np.ndarray | None = None
    garment_coordinates: np.ndarray | None = None


def load_sample(pair: Pair, height: int, width: int) -> Sample:
    """The images of a pair at one size, resized as in the released data path: linearly, masks after
    they were binarised at the size of their file. StableVITONError where one cannot be read."""
    check_size("training size", height, width)

    def load(path: Path) -> np.ndarray:
        return _resize(read_image(path), height, width)

    def load_labels(path: Path | None, read: Callable[[Path], np.ndarray]) -> np.ndarray | None:
        return _resize(read(path), height, width, cv2.INTER_NEAREST) if path else None

    return Sample(
        image=load(pair.image),
        agnostic=load(pair.agnostic),
        mask=_resize(read_mask(pair.mask), height, width),
        densepose=load(pair.densepose),
        garment=load(pair.cloth),
        warped_mask=load_labels(pair.warped_mask, read_mask),
        garment_coordinates=load_labels(pair.garment_coordinates, read_image),
    )


def load_target_image(pair: Pair, height: int, width: int) -> np.ndarray | None:
    """Ground truth of a pair, H x W x 3 uint8: the image of the person who wears its garment, which
    has the garment's name. None where there is no such image."""
    garment = Path(pair.garment)
    file = find_file(pair.image.parent.parent, ("image",), garment.stem, garment.suffix)
    return _resize(read_image(file), height, width) if file.is_file() else None


def _resize(
    image: np.ndarray, height: int, width: int, interpolation: int = cv2.INTER_LINEAR
) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=interpolation)
