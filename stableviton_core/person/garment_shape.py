"""The shape of a flat garment, measured on its silhouette: how long its sleeves are, and how far
down it reaches."""

from dataclasses import dataclass

import numpy as np

from ..errors import StableVITONError

SHOULDERS = 0.85  # distance of the shoulders, of a top's width
ARM = 1.4  # length of an arm to the wrist, in distances of the shoulders
WHOLE_SLEEVE = 0.85  # of the arm, from which a sleeve counts as reaching the wrist
SLEEVE_SHARE = 0.04  # of the area between the sides, under which there is no sleeve
SIDE = 1.1  # of half the width: what lies further out is sleeve


@dataclass(frozen=True)
class GarmentShape:
    """sleeve: the part of the arm that it covers, 0 to 1; length: from the shoulders to the hem, in
    distances of the shoulders."""

    sleeve: float
    length: float


def measure_garment(mask: np.ndarray) -> GarmentShape:
    """The shape of a top or dress, upright and laid flat, from its mask H x W bool.
    StableVITONError where the mask is empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        raise StableVITONError("the garment's mask is empty: there is no shape to measure.")
    lower_half = mask[(rows[0] + rows[-1]) // 2 : rows[-1] + 1]
    axis = int(np.median(np.nonzero(lower_half)[1]))
    left, right = _measure_sides(mask, axis)
    on_axis = np.flatnonzero(mask[:, axis])
    top, hem = int(rows[0]), int(on_axis[-1]) if len(on_axis) else int(rows[-1])
    widths = (right - left)[(top + hem) // 2 : hem + 1]
    width = float(np.median(widths[widths > 0])) if (widths > 0).any() else float(mask.shape[1])
    distance = SHOULDERS * width
    y, x = np.nonzero(mask)
    outwards = np.abs(x - axis) - width / 2
    sleeve = outwards > (SIDE - 1) * width / 2
    length = 0.0
    if sleeve.sum() > SLEEVE_SHARE * (~sleeve).sum():
        reach = np.hypot(outwards[sleeve], y[sleeve] - top - 0.1 * width)
        length = float(np.percentile(reach, 98)) / distance / ARM
    return GarmentShape(1.0 if length > WHOLE_SLEEVE else length, (hem - top) / distance)


def _measure_sides(mask: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Of every row, the first and the column after the last of the run that contains the axis;
    equal where the axis is outside the garment."""
    empty_left, empty_right = ~mask[:, axis::-1], ~mask[:, axis:]
    left = np.where(empty_left.any(axis=1), empty_left.argmax(axis=1), empty_left.shape[1])
    right = np.where(empty_right.any(axis=1), empty_right.argmax(axis=1), empty_right.shape[1])
    return axis + 1 - left, np.maximum(axis + right, axis + 1 - left)
