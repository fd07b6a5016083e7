"""Regions of a garment, and where they are on the person."""

import torch
from einops import rearrange, repeat
from torch import Tensor

from .attention_summary import locate_tokens
from .field import CorrespondenceField

SPOT = 0.02  # of the image's height: sigma of a spot


def find_region(field: CorrespondenceField, region: Tensor) -> Tensor:
    """Where a region of the garment is on the person: MASK of the padded garment B x h x w -> MASK
    B x H x W, the region's value times the field's confidence."""
    warped = field.warp(repeat(region.float(), "b h w -> b 1 h w"))[:, 0].clamp(0, 1)
    return warped * field.confidence


def make_spot(point: tuple[float, float], size: tuple[int, int]) -> Tensor:
    """A MASK 1 x H x W with a Gaussian spot at a point (x, y) in 0..1."""
    height, width = size
    offsets = (locate_tokens(size) - torch.tensor(point)) * torch.tensor([width, height])
    distances = offsets.square().sum(dim=-1) / (2 * (SPOT * height) ** 2)
    return rearrange(torch.exp(-distances), "(h w) -> 1 h w", h=height)
