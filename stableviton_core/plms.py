"""PLMS, the sampler of the released inference script: pseudo linear multi-step (arXiv 2202.09778)
with the schedule and the first step of Stable Diffusion's `plms.py`."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .errors import StableVITONError
from .schedule import TIMESTEPS, alphas_cumprod

# Adams-Bashforth weights of the noise predictions, newest first.
ADAMS_BASHFORTH = (
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def plms_timesteps(steps: int) -> list[int]:
    """The timesteps to sample at, descending: ..., 1 + 2c, 1 + c, 1 with c = 1000 // steps.

    Where steps does not divide 1000 there are more than `steps` of them, as in the released code.
    StableVITONError outside 1..1000.
    """
    if not 1 <= steps <= TIMESTEPS:
        raise StableVITONError(f"PLMS takes 1 to {TIMESTEPS} steps, got {steps}")
    stride = TIMESTEPS // steps
    return [t for t in range(1, TIMESTEPS + 1, stride) if t < TIMESTEPS][::-1]


def ddim_step(x: Tensor, eps: Tensor, abar: Tensor, abar_previous: Tensor) -> Tensor:
    """The DDIM step with eta = 0 from noise level abar to abar_previous; eps: predicted noise."""
    x0 = (x - (1 - abar).sqrt() * eps) / abar.sqrt()
    return abar_previous.sqrt() * x0 + (1 - abar_previous).sqrt() * eps


def sample_plms(
    model: Callable[[Tensor, int], Tensor],
    x: Tensor,
    timesteps: Sequence[int],
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Sample from x, B x C x H x W in the variance-preserving space at timesteps[0].

    model(x, t): predicted noise at timestep t, guidance included. timesteps: descending; the last
    step goes to abar of timestep 0. callback(step, x before the step, noise of the step).
    """
    abar = alphas_cumprod().to(x.device, torch.float32)
    history: list[Tensor] = []  # raw predictions, newest first
    for step, t in enumerate(timesteps):
        last = step == len(timesteps) - 1
        next_timestep = t if last else timesteps[step + 1]
        abar_previous = abar[0] if last else abar[next_timestep]
        eps = model(x, t)
        history = [eps, *history[:3]]
        if len(history) == 1:
            next_eps = model(ddim_step(x, eps, abar[t], abar_previous), next_timestep)
            eps = (eps + next_eps) / 2
        else:
            weights = ADAMS_BASHFORTH[len(history) - 2]
            terms = [w * e for w, e in zip(weights, history, strict=True)]
            eps = torch.stack(terms).sum(dim=0)
        if callback is not None:
            callback(step, x, eps)
        x = ddim_step(x, eps, abar[t], abar_previous)
    return x
