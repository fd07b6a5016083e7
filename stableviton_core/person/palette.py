"""Pictures whose colours stand for numbers."""

import numpy as np

NEAR = 10.0  # mean distance of a channel, in levels of 255, up to which a colour is meant
FOREIGN = 0.05  # share of other colours that resampling or compression may leave


def nearest_entries(image: np.ndarray, palette: np.ndarray) -> tuple[np.ndarray, float]:
    """For every pixel of an image H x W x 3 uint8 the nearest of a palette's colours N x 3: H x W
    uint8; and the share of foreign colours among the pixels that are not entry 0 (1 where all
    pixels are entry 0, for such a picture says nothing)."""
    packed = image.astype(np.int32) @ (65536, 256, 1)  # one number a colour
    numbers, inverse = np.unique(packed, return_inverse=True)
    colours = np.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], axis=1).astype(np.int16)
    best = np.full(len(colours), 3 * 256, np.int16)
    entries = np.zeros(len(colours), np.uint8)
    for index, entry in enumerate(palette.astype(np.int16)):
        distance = np.abs(colours - entry).sum(axis=1, dtype=np.int16)
        nearer = distance < best
        best[nearer], entries[nearer] = distance[nearer], index
    inverse = inverse.reshape(image.shape[:2])
    found, foreign = entries[inverse], (best > 3 * NEAR)[inverse]
    said = found > 0
    return found, float(foreign[said].mean()) if said.any() else 1.0
