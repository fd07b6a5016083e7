"""The noise schedule, and the latents that enter the network."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

TIMESTEPS = 1000
GREY_LEVEL = 128  # of 255: the agnostic region
GREY = GREY_LEVEL / 127.5 - 1  # the same in -1..1


@cache
def alphas_cumprod() -> Tensor:
    """abar of timesteps 0..999, float64: Stable Diffusion's "scaled linear" schedule."""
    betas = torch.linspace(0.00085**0.5, 0.0120**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0)


def add_noise(z: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """sqrt(abar_t) z + sqrt(1 - abar_t) noise; timesteps B of 0..999."""
    abar = alphas_cumprod()[timesteps.cpu()][:, None, None, None]
    return abar.sqrt().to(z) * z + (1 - abar).sqrt().to(z) * noise


def start_code(z: Tensor, noise: Tensor) -> Tensor:
    """The released start: the person's own latent at the last timestep's noise level."""
    last = torch.full((z.shape[0],), TIMESTEPS - 1)
    return add_noise(z, noise, last)


def keep_mask(mask: Tensor) -> Tensor:
    """ComfyUI's MASK (1 = change) -> keep-mask (1 = keep), binarised at 128 of 255.

    Compared half a step below, so that 128 stored in half precision still counts as change.
    """
    return (mask < 127.5 / 255).to(mask)


def latent_mask(keep: Tensor, size: tuple[int, ...]) -> Tensor:
    """Keep-mask B x 1 x H x W -> the size of a latent, bilinear without antialiasing."""
    return F.interpolate(keep, size=size, mode="bilinear", align_corners=False)
