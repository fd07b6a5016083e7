"""Garment images as the field's coordinates see them: padded to the person's aspect, at their own
resolution."""

import torch
from einops import rearrange
from torch import Tensor

from ..image_tensors import (
    expand_batch,
    find_batch_size,
    pad_to_aspect,
    resize_mask_to_person,
    to_arrays,
    to_masks,
    to_rgb,
)
from ..person.garment import segment_garment


def segment_garments(garments: Tensor) -> Tensor:
    """IMAGE -> MASK of what stands out from the background. StableVITONError where nothing does."""
    return to_masks([segment_garment(array) for array in to_arrays(garments)])


def place_garments(garments: Tensor, masks: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """IMAGE and MASK (1 = garment) -> the same of the aspect of size (height, width), neither
    stretched nor made smaller. ImageError where a mask has another aspect than its image."""
    garments = to_rgb(garments)
    masks = resize_mask_to_person("garment mask", masks, *garments.shape[1:3])
    batch = find_batch_size({"garment": len(garments), "garment mask": len(masks)})
    masks = expand_batch(masks.to(garments), batch)[..., None]
    layers = torch.cat([expand_batch(garments, batch), masks], dim=-1)
    placed = pad_to_aspect(rearrange(layers, "b h w c -> b c h w"), *size)
    placed = rearrange(placed, "b c h w -> b h w c")
    return placed[..., :3], placed[..., 3]
