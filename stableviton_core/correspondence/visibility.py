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
    seeds = np.where(shown > 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    seeds[mask == 0] = cv2.GC_BGD
    visible = np.float32(cut_foreground(image, seeds))
    visible = cv2.resize(cv2.GaussianBlur(visible, (0, 0), SOFTNESS), (width, height))
    return replace(field, confidence=field.confidence * torch.from_numpy(visible))
