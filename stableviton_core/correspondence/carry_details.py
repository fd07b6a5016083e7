"""Carries details of a garment photo over to a try-on, along a correspondence field.

The try-on's coarse band stays: shading, folds and light as they were generated. The finer bands
come from the garment photo, where the field is sure of them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..image_tensors import ramp_inwards
from ..images import blur_inside
from .field import CorrespondenceField

SURE = (0.05, 0.25)  # confidence from which details begin to be carried over, and are fully
EDGE = 2  # pixels inside the mask across which they begin


@dataclass(frozen=True)
class DetailOptions:
    """strength: 0..1. coarsest and finest: the sizes of the details to carry over, as sigma of a
    Gaussian window: a fraction of the image's height, and pixels of the image (0: all)."""

    strength: float = 1.0
    coarsest: float = 0.06
    finest: float = 0.0


def carry_details(
    tryon: Tensor,
    garment: Tensor,
    garment_mask: Tensor,
    field: CorrespondenceField,
    mask: Tensor,
    options: DetailOptions,
) -> Tensor:
    """IMAGE B x H x W x 3: the try-on with details of the garment. Where the mask is 0, and all of
    it with strength 0, it is the try-on bit for bit.

    tryon: IMAGE. garment: IMAGE of the person's aspect and any size, and its mask, 1 = garment.
    mask: MASK, the agnostic mask, of the try-on's size. All of one batch.
    """
    height, width = tryon.shape[1:3]
    field = field.resize(height, width)
    warped, region = field.warp_image(garment, garment_mask)
    trust = ((field.confidence - SURE[0]) / (SURE[1] - SURE[0])).clamp(0, 1)
    mask = mask.cpu()
    region = trust * region * mask
    alpha = options.strength * region * ramp_inwards(mask > 0, EDGE)
    detailed = torch.stack(
        [
            torch.from_numpy(_exchange_bands(a.numpy(), b.numpy(), c.numpy(), options))
            for a, b, c in zip(tryon.cpu().float(), warped, region, strict=True)
        ]
    )
    alpha, detailed = alpha[..., None].to(tryon), detailed.to(tryon)
    return torch.where(alpha > 0, tryon + alpha * (detailed - tryon), tryon)


def _exchange_bands(
    tryon: np.ndarray, garment: np.ndarray, region: np.ndarray, options: DetailOptions
) -> np.ndarray:
    """The garment H x W x 3 as on the person, with the try-on's coarse band in place of its own.
    region: H x W, 1 = garment; bands are averages over it alone."""
    sigma = options.coarsest * len(tryon)
    difference = garment - tryon
    coarse = blur_inside(difference, region, sigma)
    if options.finest > 0:
        difference = blur_inside(difference, region, options.finest)
    return (tryon + difference - coarse).clip(0, 1)
