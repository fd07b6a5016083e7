"""The parts of a body on each of which a garment bends little."""

import cv2
import numpy as np

from ..person.densepose import (
    LOWER_ARM_PARTS,
    LOWER_LEG_PARTS,
    TORSO_PARTS,
    UPPER_ARM_PARTS,
    UPPER_LEG_PARTS,
)

LIMBS = (UPPER_ARM_PARTS, LOWER_ARM_PARTS, UPPER_LEG_PARTS, LOWER_LEG_PARTS)
RIGID_PARTS = (TORSO_PARTS, *(parts[side] for parts in LIMBS for side in ("left", "right")))
SMALLEST_SHARE = 0.03  # of the region: a smaller part belongs to its neighbours


def measure_part_distances(parts: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Distances of every pixel to the rigid parts of the body, P x H x W float32 in pixels.

    parts: DensePose indices H x W. region: H x W bool; of the parts that lie in it, P >= 1. Without
    any, one part that is everywhere.
    """
    areas = [np.isin(parts, group) for group in RIGID_PARTS]
    areas = [area for area in areas if (area & region).sum() > SMALLEST_SHARE * region.sum()]
    if not areas:
        return np.zeros((1, *parts.shape), np.float32)
    distances = [
        cv2.distanceTransform(np.uint8(~area), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for area in areas
    ]
    return np.stack(distances)
