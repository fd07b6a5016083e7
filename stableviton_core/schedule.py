"""The noise schedule: Stable Diffusion's 1000 timesteps."""

from functools import cache

import torch
from einops import rearrange
from torch import Tensor

TIMESTEPS = 1000


@cache
def alphas_cumprod() -> Tensor:
    """abar of timesteps 0..999, float64: Stable Diffusion's "scaled linear" schedule."""
    with torch.inference_mode(False):  # it is kept, also for those who compute gradients
        betas = torch.linspace(0.00085**0.5, 0.0120**0.5, TIMESTEPS, dtype=torch.float64) ** 2
        return torch.cumprod(1 - betas, dim=0)


def read_schedule(values: Tensor, timesteps: Tensor, like: Tensor) -> Tensor:
    """Values of timesteps 0..999 -> those of timesteps B, on the device and of the type of `like`.
    Cast before they are moved: not every device has float64."""
    return values.to(like.dtype).to(like.device)[timesteps]


def add_noise(z: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Latents z and noise, B x C x h x w, timesteps B of 0..999 ->
    sqrt(abar_t) z + sqrt(1 - abar_t) noise."""
    abar = alphas_cumprod()
    signal, sigma = (
        rearrange(read_schedule(values.sqrt(), timesteps, z), "b -> b 1 1 1")
        for values in (abar, 1 - abar)
    )
    return signal * z + sigma * noise


def start_code(z: Tensor, noise: Tensor) -> Tensor:
    """The released start of sampling: the person's latent z at the last timestep's noise level."""
    last = torch.full((z.shape[0],), TIMESTEPS - 1, device=z.device)
    return add_noise(z, noise, last)
