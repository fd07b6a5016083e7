"""The images of a pair, decoded and brought to one size."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from ..images import check_size, read_image, read_mask
from .dresscode import make_agnostic, read_densepose
from .pairs import Pair, find_target


@dataclass(frozen=True)
class Sample:
    """The images of a pair: H x W x 3 uint8 RGB; masks H x W uint8.

    mask: 255 = generate, 0 = keep, soft at the edges of a resized one. warped_mask: 255 = the
    garment on the person, else 0. garment_coordinates: for each of these pixels its column and row
    on the garment image, both scaled to 0..255, in red and green; blue is 255 where they are known,
    else 0. The last two are None where unknown.
    """

    image: np.ndarray
    agnostic: np.ndarray
    mask: np.ndarray
    densepose: np.ndarray
    garment: np.ndarray
    warped_mask: np.ndarray | None = None
    garment_coordinates: np.ndarray | None = None


def load_sample(
    pair: Pair, height: int, width: int, garment_fit: Literal["stretch", "pad"] = "stretch"
) -> Sample:
    """The images of a pair at one size, resized as in the released data path: linearly, masks after
    they were binarised at the size of their file.

    garment_fit: a garment of another aspect is stretched, as released, or padded with the colour of
    its border. StableVITONError where an image cannot be read or made.
    """
    check_size("image size", height, width)

    def resize(image: np.ndarray) -> np.ndarray:
        return _resize(image, height, width)

    def load_labels(path: Path | None, read: Callable[[Path], np.ndarray]) -> np.ndarray | None:
        return _resize(read(path), height, width, cv2.INTER_NEAREST) if path else None

    image = read_image(pair.image)
    if pair.keypoints and pair.labels:
        agnostic, mask = make_agnostic(image, pair.keypoints, pair.labels, pair.category)
    else:
        assert pair.agnostic and pair.mask
        agnostic, mask = read_image(pair.agnostic), read_mask(pair.mask)
    garment = read_image(pair.cloth)
    return Sample(
        image=resize(image),
        agnostic=resize(agnostic),
        mask=resize(mask),
        densepose=resize(read_densepose(pair.densepose)),
        garment=resize(pad_to_aspect(garment, height, width) if garment_fit == "pad" else garment),
        warped_mask=load_labels(pair.warped_mask, read_mask),
        garment_coordinates=load_labels(pair.garment_coordinates, read_image),
    )


def load_target_image(pair: Pair, height: int, width: int) -> np.ndarray | None:
    """Ground truth of a pair, H x W x 3 uint8: the image of the person who wears its garment. None
    where there is no such image."""
    file = find_target(pair)
    return _resize(read_image(file), height, width) if file else None


def pad_to_aspect(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """A garment h x w x 3 uint8 with its border's median colour added, so that it has the aspect of
    height x width; the same as `image_tensors.pad_garment` before that resizes."""
    h, w = image.shape[:2]
    rows, columns = max(0, round(w * height / width) - h), max(0, round(h * width / height) - w)
    if not rows and not columns:
        return image
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    colour = np.sort(border, axis=0)[(len(border) - 1) // 2].tolist()  # torch's lower median
    top, left = rows // 2, columns // 2
    return cv2.copyMakeBorder(
        image, top, rows - top, left, columns - left, cv2.BORDER_CONSTANT, value=colour
    )


def _resize(
    image: np.ndarray, height: int, width: int, interpolation: int = cv2.INTER_LINEAR
) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=interpolation)
