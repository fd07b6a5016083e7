"""The training loop: noise prediction on cached latents."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from torch import Tensor

from ..diffusion import TIMESTEPS, add_noise
from .autoencoder import to_signed
from .latents import Latents
from .model import TryOnModel

LOW_FREQUENCY = 8


@dataclass(frozen=True)
class Training:
    """steps of `batch` pairs. late_fraction: the share of a batch whose timesteps are drawn from
    the noisiest quarter instead of all. low_frequency: weight of the same error after averaging
    over blocks of LOW_FREQUENCY x LOW_FREQUENCY; a small network else gets overall colours wrong,
    which the plain error hardly sees. Both are 0 as released."""

    steps: int
    batch: int = 16
    learning_rate: float = 5e-4
    warmup: int = 200
    weight_decay: float = 0.01
    unconditional: float = 0.2
    late_fraction: float = 0.0
    low_frequency: float = 0.0
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
    low_frequency: float = 0.0,
) -> Tensor:
    """MSE between predicted and true noise (Stable Diffusion's objective), plus low_frequency
    times that of their block averages, scaled to the same noise level."""
    noisy = add_noise(batch.person, noise, timesteps)
    eps = model.network(network_input(noisy, batch), timesteps, context, batch.garment)
    error = eps - noise
    loss = error.square().mean()
    if low_frequency:
        averages = F.avg_pool2d(error, LOW_FREQUENCY) * LOW_FREQUENCY
        loss = loss + low_frequency * averages.square().mean()
    return loss


def draw_timesteps(count: int, late_fraction: float, generator: torch.Generator) -> Tensor:
    uniform = torch.randint(TIMESTEPS, (count,), generator=generator)
    late = TIMESTEPS - 1 - uniform // 4
    chosen = torch.rand(count, generator=generator) < late_fraction
    return torch.where(chosen, late, uniform)


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
        timesteps = draw_timesteps(training.batch, training.late_fraction, generator)
        noise = torch.randn(batch.person.shape, generator=generator)
        if torch.rand((), generator=generator) < training.unconditional:
            context = model.unconditional(training.batch)
        else:
            context = model.context(to_signed(batch.garment_image))
        loss = noise_loss(model, batch, timesteps, noise, context, training.low_frequency)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        average.step(parameters)
        report(step, loss.item(), average)
    average.copy_to(parameters)
    model.eval()
