"""Training a small autoencoder, and its key names in both worlds.

diffusers' AutoencoderKL is the class that trains; checkpoints hold the LDM names that ComfyUI and
the released files use (`first_stage_model.*`).
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from torch import Tensor

from ..config import AutoencoderConfig


def build_autoencoder(config: AutoencoderConfig) -> AutoencoderKL:
    widths = tuple(config.base_width * m for m in config.multipliers)
    levels = len(widths)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=widths,
        layers_per_block=config.blocks,
        latent_channels=config.latent_channels,
        scaling_factor=config.latent_scale,
    )


def ldm_key(key: str, levels: int) -> str:
    """diffusers' name of an AutoencoderKL parameter -> the LDM name."""

    def up(match: re.Match[str]) -> str:  # LDM counts decoder levels from the finest
        return f"decoder.up.{levels - 1 - int(match[1])}."

    key = re.sub(r"^encoder\.down_blocks\.(\d+)\.", r"encoder.down.\1.", key)
    key = re.sub(r"^decoder\.up_blocks\.(\d+)\.", up, key)
    for theirs, ldm in (
        (r"\.resnets\.(\d+)\.", r".block.\1."),
        (r"\.downsamplers\.0\.", ".downsample."),
        (r"\.upsamplers\.0\.", ".upsample."),
        (r"\.mid_block\.block\.0\.", ".mid.block_1."),
        (r"\.mid_block\.block\.1\.", ".mid.block_2."),
        (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
        (r"\.attn_1\.group_norm\.", ".attn_1.norm."),
        (r"\.attn_1\.to_([qkv])\.", r".attn_1.\1."),
        (r"\.attn_1\.to_out\.0\.", ".attn_1.proj_out."),
        (r"\.conv_shortcut\.", ".nin_shortcut."),
        (r"\.conv_norm_out\.", ".norm_out."),
    ):
        key = re.sub(theirs, ldm, key)
    return key


def to_ldm(autoencoder: AutoencoderKL) -> dict[str, Tensor]:
    """State dict in LDM names; the attention's linear weights become 1 x 1 convolutions."""
    levels = len(autoencoder.config["block_out_channels"])
    weights = {}
    for key, value in autoencoder.state_dict().items():
        name = ldm_key(key, levels)
        if re.search(r"\.attn_1\.(q|k|v|proj_out)\.weight$", name):
            value = value[:, :, None, None]
        weights[name] = value
    return weights


def load_ldm(autoencoder: AutoencoderKL, weights: dict[str, Tensor]) -> None:
    """Load a state dict of LDM names, strictly."""
    levels = len(autoencoder.config["block_out_channels"])
    own = autoencoder.state_dict()
    names = {key: ldm_key(key, levels) for key in own}
    renamed = {key: weights[name].reshape(own[key].shape) for key, name in names.items()}
    autoencoder.load_state_dict(renamed, strict=True)


def to_signed(images: np.ndarray) -> Tensor:
    """uint8 N x H x W x 3 -> float N x 3 x H x W in -1..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1  # N H W C -> N C H W


@dataclass(frozen=True)
class AutoencoderTraining:
    """steps of `batch` crops, then `whole_steps` of `whole_batch` whole pictures."""

    steps: int
    whole_steps: int
    batch: int = 8
    whole_batch: int = 2
    learning_rate: float = 6e-4
    warmup: int = 100
    latent_noise: float = 0.05
    latent_penalty: float = 1e-3
    blur_weight: float = 1.0
    seed: int = 0


def train_autoencoder(
    autoencoder: AutoencoderKL,
    images: np.ndarray,
    training: AutoencoderTraining,
    report: Callable[[int, float], None],
) -> None:
    """Reconstruct pictures (uint8 N x H x W x 3), in place; ends on the averaged weights.

    L1, plus L1 after a strong blur (hue), plus a penalty that keeps latents near unit scale. The
    decoder sees the posterior's mode plus a little noise.
    """
    rng = np.random.default_rng(training.seed)
    noise = torch.Generator().manual_seed(training.seed)
    total = training.steps + training.whole_steps
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=training.learning_rate)
    schedule = get_cosine_schedule_with_warmup(optimizer, training.warmup, total)
    average = EMAModel(autoencoder.parameters(), decay=0.995, use_ema_warmup=True, power=0.8)
    autoencoder.to(memory_format=torch.channels_last).train()
    for step, batch in zip(range(total), _batches(images, training, rng), strict=False):
        target = to_signed(batch).contiguous(memory_format=torch.channels_last)
        latent = autoencoder.encode(target).latent_dist.mode()
        shaken = latent + training.latent_noise * torch.randn(latent.shape, generator=noise)
        output = autoencoder.decode(shaken).sample
        distance = F.l1_loss(output, target)
        blurred = F.l1_loss(F.avg_pool2d(output, 8), F.avg_pool2d(target, 8))
        penalty = training.latent_penalty * latent.square().mean()
        loss = distance + training.blur_weight * blurred + penalty
        loss.backward()
        torch.nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        average.step(autoencoder.parameters())
        report(step, distance.item())
    average.copy_to(autoencoder.parameters())


def _batches(
    images: np.ndarray, training: AutoencoderTraining, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Crops of half the size, and every other time whole pictures at half the size; at the end
    whole pictures."""
    height, width = images.shape[1] // 2, images.shape[2] // 2
    for step in range(training.steps):
        chosen = images[rng.integers(len(images), size=training.batch)]
        if step % 2:
            yield chosen.reshape(len(chosen), height, 2, width, 2, 3).mean(axis=(2, 4))
        else:
            top, left = rng.integers(height + 1), rng.integers(width + 1)
            yield chosen[:, top : top + height, left : left + width]
    for _ in range(training.whole_steps):
        yield images[rng.integers(len(images), size=training.whole_batch)]


@torch.no_grad()
def latent_scale(autoencoder: AutoencoderKL, images: np.ndarray) -> float:
    """The factor that brings latents (posterior modes) to unit standard deviation."""
    latents = autoencoder.encode(to_signed(images)).latent_dist.mode()
    return 1 / latents.std().item()
