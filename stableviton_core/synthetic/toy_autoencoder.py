"""The autoencoder of the demo checkpoint: initialized by hand, trained on synthetic samples."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from einops import reduce
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ..files import replace_atomically
from ..model.config import AutoencoderConfig
from ..model.vae import build_autoencoder, normalize_uint8, to_ldm
from .draw_garment import generate_garment
from .draw_person import generate_person
from .renderer import render_sample

HEIGHT = 256
NUM_SAMPLES = 1200
FILE = "autoencoder.safetensors"
SCALE_KEY = "latent_scale"  # in the metadata of FILE
CONFIG = AutoencoderConfig(model_channels=96, channel_mult=(1, 1, 1, 2), num_res_blocks=1)
GROUPS = 32  # of the group normalizations
ANCHOR = 2.0


@dataclass(frozen=True)
class AutoencoderTraining:
    """`steps` with `batch` crops, then `whole_steps` with `whole_batch` whole images."""

    steps: int = 1900
    whole_steps: int = 150
    batch: int = 8
    whole_batch: int = 1
    learning_rate: float = 5e-4
    warmup: int = 100
    latent_noise: float = 0.05
    latent_penalty: float = 1e-3
    blur_weight: float = 1.0
    seed: int = 0


def write_autoencoder(output: Path) -> None:
    """Train and write FILE into a folder: LDM names, the latent scale in the metadata."""
    training = AutoencoderTraining()
    images = render_images(NUM_SAMPLES, training.seed)
    autoencoder = build_autoencoder(CONFIG)
    initialize_mean_colour(autoencoder)
    total = training.steps + training.whole_steps
    with tqdm(total=total, desc="autoencoder", mininterval=10) as bar:

        def report(distance: float) -> None:
            bar.set_postfix(l1=f"{distance:.4f}", refresh=False)
            bar.update()

        train_autoencoder(autoencoder, images, training, report)
    scale = measure_latent_scale(autoencoder, images[:256])
    weights = {key: value.contiguous() for key, value in to_ldm(autoencoder).items()}
    with replace_atomically(output / FILE) as partial:
        save_file(weights, partial, {SCALE_KEY: repr(scale)})


def render_images(count: int, seed: int) -> np.ndarray:
    """Person, garment, agnostic and DensePose image of each sample, uint8 4 count x H x W x 3."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in tqdm(range(count), desc="rendering"):
        sample = render_sample(generate_person(rng), generate_garment(rng), HEIGHT)
        images += [sample.image, sample.garment, sample.agnostic, sample.densepose]
    return np.stack(images)


def train_autoencoder(
    autoencoder: AutoencoderKL,
    images: np.ndarray,
    training: AutoencoderTraining,
    report: Callable[[float], None],
) -> None:
    """Train in place to reconstruct images (uint8 B x H x W x 3); the EMA weights are kept.

    Loss: `compute_colour_distance`, the same after 8 x 8 average pooling (hue), and a penalty that
    keeps latents near unit scale. The decoder sees the posterior's mode plus noise. report: called
    with the L1 of every step.
    """
    rng = np.random.default_rng(training.seed)
    generator = torch.Generator().manual_seed(training.seed)
    total = training.steps + training.whole_steps
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=training.learning_rate)
    schedule = get_cosine_schedule_with_warmup(optimizer, training.warmup, total)
    ema = EMAModel(autoencoder.parameters(), decay=0.995, use_ema_warmup=True, power=0.8)
    autoencoder.to(memory_format=torch.channels_last).train()
    for batch in _iterate_batches(images, training, rng):
        target = normalize_uint8(batch).contiguous(memory_format=torch.channels_last)
        latent = autoencoder.encode(target).latent_dist.mode()
        noise = training.latent_noise * torch.randn(latent.shape, generator=generator)
        output = autoencoder.decode(latent + noise).sample
        distance = compute_colour_distance(output, target)
        blurred = compute_colour_distance(F.avg_pool2d(output, 8), F.avg_pool2d(target, 8))
        penalty = training.latent_penalty * latent.square().mean()
        loss = distance + training.blur_weight * blurred + penalty
        loss.backward()
        torch.nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        ema.step(autoencoder.parameters())
        report(F.l1_loss(output, target).item())
    ema.copy_to(autoencoder.parameters())


def compute_colour_distance(output: Tensor, target: Tensor) -> Tensor:
    """L1 of brightness plus half the L1 of differences between colour channels, B x 3 x H x W."""
    difference = output - target
    brightness = difference.mean(dim=1).abs().mean()
    colour = (difference - difference.roll(1, dims=1)).abs().mean()
    return brightness + colour / 2


def _iterate_batches(
    images: np.ndarray, training: AutoencoderTraining, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Crops of a quarter of the height and width, in odd steps of images at half the size; then
    whole images."""
    height, width = images.shape[1] // 4, images.shape[2] // 4
    for step in range(training.steps):
        batch = images[rng.integers(len(images), size=training.batch)]
        if step % 2:
            batch = reduce(batch.astype(float), "b (h p) (w q) c -> b h w c", "mean", p=2, q=2)
        top = rng.integers(batch.shape[1] - height + 1)
        left = rng.integers(batch.shape[2] - width + 1)
        yield batch[:, top : top + height, left : left + width]
    for _ in range(training.whole_steps):
        yield images[rng.integers(len(images), size=training.whole_batch)]


@torch.no_grad()
def measure_latent_scale(autoencoder: AutoencoderKL, images: np.ndarray) -> float:
    """The factor that brings latents (posterior modes) to unit standard deviation."""
    latents = autoencoder.encode(normalize_uint8(images)).latent_dist.mode()
    return 1 / latents.std().item()


@torch.no_grad()
def initialize_mean_colour(autoencoder: AutoencoderKL) -> None:
    """Initial weights with which latents 0..2 are the mean colour of their 8 x 8 pixels and the
    decoder paints it back, so that training starts with the right hues.

    Group normalization removes the absolute level of a group of few channels. So each colour has a
    group of its own with two constant channels, `ANCHOR` and its negative, which dominate the
    statistics of the group. Needs at least three channels per group (96 model channels).
    """
    encoder, decoder = autoencoder.encoder, autoencoder.decoder
    for half in (encoder, decoder):
        for module in half.modules():
            if isinstance(module, ResnetBlock2D):
                torch.nn.init.zeros_(module.conv2.weight)
                torch.nn.init.zeros_(module.conv2.bias)
                if module.conv_shortcut is not None:
                    _carry_colour(module.conv_shortcut)
            elif isinstance(module, Downsample2D):
                _carry_colour(module.conv, mean=True)
            elif isinstance(module, Upsample2D):
                _carry_colour(module.conv)
            elif isinstance(module, Attention):
                torch.nn.init.zeros_(module.to_out[0].weight)
        _enter_colour(half.conv_in)
        _leave_colour(half.conv_norm_out, half.conv_out)
    for conv in (autoencoder.quant_conv, autoencoder.post_quant_conv):
        torch.nn.init.dirac_(conv.weight)
        torch.nn.init.zeros_(conv.bias)


def _find_channel(width: int, colour: int) -> int:
    """The channel that carries a colour; the next two are its anchors."""
    return width // GROUPS * 10 * colour


def _enter_colour(conv: Any) -> None:
    for colour in range(3):
        channel = _find_channel(conv.out_channels, colour)
        conv.weight[channel : channel + 3] = 0
        conv.weight[channel, colour, 1, 1] = 1
        conv.bias[channel : channel + 3] = torch.tensor([0, ANCHOR, -ANCHOR])


def _carry_colour(conv: Any, mean: bool = False) -> None:
    """mean: average 2 x 2 pixels, for a convolution of stride 2."""
    centre = conv.kernel_size[0] // 2
    for colour in range(3):
        source = _find_channel(conv.in_channels, colour)
        target = _find_channel(conv.out_channels, colour)
        for offset in range(3):
            conv.weight[target + offset] = 0
            conv.bias[target + offset] = 0
            if mean:
                conv.weight[target + offset, source + offset, :2, :2] = 0.25
            else:
                conv.weight[target + offset, source + offset, centre, centre] = 1


def _leave_colour(norm: Any, conv: Any) -> None:
    """Undo the normalization and the SiLU, in the range where SiLU is nearly linear."""
    shift = torch.tensor(1.5)
    size = conv.in_channels // GROUPS
    scale = (1 - 1 / size) / (2 * ANCHOR**2 / size) ** 0.5  # of the normalized colour
    slope = (F.silu(shift + scale) - F.silu(shift - scale)) / 2
    for colour in range(3):
        channel = _find_channel(conv.in_channels, colour)
        norm.bias[channel] = shift
        conv.weight[colour] = 0
        conv.weight[colour, channel, 1, 1] = 1 / slope
        conv.bias[colour] = -F.silu(shift) / slope
