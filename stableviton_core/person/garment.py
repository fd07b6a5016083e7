"""A garment photo as StableVITON expects it: centred on white, at the working aspect."""

import cv2
import numpy as np

from ..errors import StableVITONError
from .networks import segment_salient_object

WHITE = 255
MARGIN = 0.06  # around the garment, of the image's side
MINIMUM_AREA = 0.005  # of the image


def segment_garment(photo: np.ndarray) -> np.ndarray:
    """The garment of a photo H x W x 3 uint8 RGB, H x W float32 in 0..1. StableVITONError where
    nothing stands out."""
    mask = segment_salient_object(photo)
    if (mask > 0.5).mean() < MINIMUM_AREA:
        raise StableVITONError(
            "no garment stands out from the background of this photo. Lay it on a plain background "
            "of another colour, or give its mask."
        )
    return mask


def place_on_white(
    photo: np.ndarray, mask: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """The garment on white, height x width x 3 uint8, and its mask, height x width float32.

    mask: H x W float32, 0..1. The garment is centred and scaled to fill the image but for a margin,
    never stretched. StableVITONError where the mask is empty or of another size than the photo.
    """
    if mask.shape != photo.shape[:2]:
        raise StableVITONError(f"the mask is {mask.shape[::-1]} and the photo {photo.shape[1::-1]}")
    rows, columns = np.nonzero(mask > 0.5)
    if not len(rows):
        raise StableVITONError("the garment's mask is empty: there is nothing to place.")
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    room = 1 - 2 * MARGIN
    scale = min(room * height / (bottom - top), room * width / (right - left))
    shift = (
        (width - scale * (left + right)) / 2 + (scale - 1) / 2,
        (height - scale * (top + bottom)) / 2 + (scale - 1) / 2,
    )
    on_white = WHITE + mask[..., None] * (photo.astype(np.float32) - WHITE)
    if scale < 1:  # warpAffine does not antialias
        sigma = max(0.5 / scale - 0.5, 0.1)
        on_white, mask = (cv2.GaussianBlur(x, (0, 0), sigma) for x in (on_white, mask))
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    placed = cv2.warpAffine(
        on_white, matrix, (width, height), borderMode=cv2.BORDER_CONSTANT, borderValue=[WHITE] * 3
    )
    return (
        placed.round().clip(0, 255).astype(np.uint8),
        cv2.warpAffine(mask.astype(np.float32), matrix, (width, height)).clip(0, 1),
    )
