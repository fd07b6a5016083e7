"""The training loop: noise prediction on cached latents."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from torch import Tensor

from ..diffusion import TIMESTEPS, add_noise, alphas_cumprod
from .autoencoder import to_signed
from .latents import Latents
from .model import TryOnModel


@dataclass(frozen=True)
class Training:
    """steps of `batch` pairs. unconditional: the probability of a batch without its garment's
    context. velocity: weigh the error as `noise_loss` says; not so as released."""

    steps: int
    batch: int = 16
    learning_rate: float = 5e-4
    warmup: int = 200
    weight_decay: float = 0.01
    unconditional: float = 0.2
    velocity: bool = False
    ema_decay: float = 0.999
    seed: int = 0


def network_input(noisy: Tensor, batch: Latents) -> Tensor:
    """Noisy latent, agnostic latent, keep-mask, DensePose latent -> B x 13 x h x w."""
    return torch.cat([noisy, batch.agnostic, batch.keep, batch.densepose], dim=1)


def noise_loss(
    model: TryOnModel,
    batch: Latents,
    timesteps: Tensor,
    noise: Tensor,
    context: Tensor,
    velocity: bool = False,
) -> Tensor:
    """MSE between predicted and true noise (Stable Diffusion's objective).

    velocity: each item over its abar, which makes it the MSE of the velocity (Salimans and Ho,
    2022, section 4). At high noise, where a small error of the noise is a large one of the picture
    and the garment's colour is decided, it counts for far more.
    """
    noisy = add_noise(batch.person, noise, timesteps)
    eps = model.network(network_input(noisy, batch), timesteps, context, batch.garment)
    errors = (eps - noise).square().mean(dim=(1, 2, 3))
    if velocity:
        errors = errors / alphas_cumprod()[timesteps].to(errors)
    return errors.mean()


def train(
    model: TryOnModel,
    data: Latents,
    training: Training,
    report: Callable[[int, float, EMAModel], None],
) -> None:
    """Train all of the model in place; it ends on the averaged weights."""
    generator = torch.Generator().manual_seed(training.seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=training.learning_rate, weight_decay=training.weight_decay
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, training.warmup, training.steps)
    average = EMAModel(parameters, decay=training.ema_decay, use_ema_warmup=True, power=0.8)
    model.train()
    for step in range(training.steps):
        batch = data[torch.randint(len(data), (training.batch,), generator=generator)]
        timesteps = torch.randint(TIMESTEPS, (training.batch,), generator=generator)
        noise = torch.randn(batch.person.shape, generator=generator)
        if torch.rand((), generator=generator) < training.unconditional:
            context = model.unconditional(training.batch)
        else:
            context = model.context(to_signed(batch.garment_image))
        loss = noise_loss(model, batch, timesteps, noise, context, training.velocity)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        average.step(parameters)
        report(step, loss.item(), average)
    average.copy_to(parameters)
    model.eval()
