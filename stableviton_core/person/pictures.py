"""Between ComfyUI's pictures, B x H x W x C in 0..1, and arrays, H x W x 3 uint8 RGB."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..inputs import InputError


def three_channels(images: Tensor) -> Tensor:
    """B x H x W x 1, 3 or 4 -> B x H x W x 3: grey repeated, transparency on white. InputError for
    other shapes and for an empty picture."""
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or 0 in images.shape:
        raise InputError(
            "A picture is batch x height x width x 1, 3 or 4 channels, got "
            f"{' x '.join(map(str, images.shape))}."
        )
    if images.shape[-1] == 4:
        alpha = images[..., 3:]
        return images[..., :3] * alpha + (1 - alpha)
    return images.expand(*images.shape[:-1], 3)


def channels_first(images: Tensor) -> Tensor:
    """B x H x W x C -> B x 3 x H x W."""
    return three_channels(images).movedim(-1, 1)


def to_arrays(images: Tensor) -> list[np.ndarray]:
    levels = (three_channels(images).clamp(0, 1) * 255).round()
    return list(levels.to("cpu", torch.uint8).numpy())


def to_images(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(arrays)).float() / 255


def to_masks(arrays: Sequence[np.ndarray]) -> Tensor:
    """H x W bool or 0..1, of one size -> B x H x W float32."""
    return torch.from_numpy(np.stack(arrays).astype(np.float32))
