"""Where a try-on shows the garment: a field goes on beyond the garment's edge and below what is in
front of it, and the try-on's colours tell where it ends."""

from dataclasses import replace

import cv2
import numpy as np
import torch

from ..person.graph_cut import cut_foreground
from .field import CorrespondenceField

LARGEST_SIDE = 512  # pixels at which the colours are looked at
SURE = 0.4  # confidence from which the garment is looked for
DEEP = 1 / 16  # of the height: so far from the edge of what the field shows it is the garment
SOFTNESS = 0.7  # pixels: sigma of the edge


def limit_to_visible(
    field: CorrespondenceField, tryon: np.ndarray, mask: np.ndarray
) -> CorrespondenceField:
    """A field of one item whose confidence is 0 where the try-on shows something else than the
    garment. tryon: H x W x 3 uint8 and mask: H x W, 1 = generated, both of the field's size."""
    height, width = field.size
    shrink = min(1.0, LARGEST_SIDE / max(height, width))
    size = round(width * shrink), round(height * shrink)
    shown = field.warp_mask()[0].numpy() * (field.confidence[0].numpy() > SURE)
    image, mask, shown = (
        cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in (tryon, np.float32(mask), shown)
    )
    visible = np.float32(_find_garment(image, mask > 0, (shown > 0.5) & (mask > 0)))
    visible = cv2.resize(cv2.GaussianBlur(visible, (0, 0), SOFTNESS), (width, height))
    return replace(field, confidence=field.confidence * torch.from_numpy(visible))


def _find_garment(image: np.ndarray, mask: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """GrabCut from what the field shows (H x W bool) against what is outside the mask."""
    seeds = np.where(shown, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    depth = cv2.distanceTransform(np.uint8(shown), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    seeds[depth > DEEP * len(image)] = cv2.GC_FGD
    seeds[~mask] = cv2.GC_BGD
    return cut_foreground(image, seeds)
