"""Training a small autoencoder, and its key names in both worlds.

diffusers' AutoencoderKL is the class that trains; checkpoints hold the LDM names that ComfyUI and
the released files use (`first_stage_model.*`).
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

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
from torch import Tensor

from ..errors import CheckpointError
from ..model.config import AutoencoderConfig


def build_autoencoder(config: AutoencoderConfig) -> AutoencoderKL:
    widths = tuple(config.model_channels * m for m in config.channel_mult)
    levels = len(widths)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=widths,
        layers_per_block=config.num_res_blocks,
        latent_channels=config.latent_channels,
        scaling_factor=config.latent_scale,
    )


GROUPS = 32  # of the group normalisations
ANCHOR = 2.0


@torch.no_grad()
def start_from_mean_colour(autoencoder: AutoencoderKL) -> None:
    """Initial weights with which latents 0..2 are the mean colour of their pixels and the decoder
    paints it back; training begins with the right hues and learns the detail.

    Group normalisation divides the absolute colour of a group of few channels out. So each colour
    travels in a group of its own beside two constant channels, which dominate the group's
    statistics: `ANCHOR` and its negative. Needs at least three channels a group (width 96).
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


def _carrier(width: int, colour: int) -> int:
    """The channel that carries a colour; the two after it are its anchors."""
    return width // GROUPS * 10 * colour


def _bias(conv: torch.nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def _enter_colour(conv: torch.nn.Conv2d) -> None:
    for colour in range(3):
        channel = _carrier(conv.out_channels, colour)
        conv.weight[channel : channel + 3] = 0
        conv.weight[channel, colour, 1, 1] = 1
        _bias(conv)[channel : channel + 3] = torch.tensor([0, ANCHOR, -ANCHOR])


def _carry_colour(conv: torch.nn.Conv2d, mean: bool = False) -> None:
    """mean: the average of each 2 x 2 pixels, for a convolution of stride 2."""
    middle = conv.kernel_size[0] // 2
    for colour in range(3):
        source, target = _carrier(conv.in_channels, colour), _carrier(conv.out_channels, colour)
        for offset in range(3):
            conv.weight[target + offset] = 0
            _bias(conv)[target + offset] = 0
            if mean:
                conv.weight[target + offset, source + offset, :2, :2] = 0.25
            else:
                conv.weight[target + offset, source + offset, middle, middle] = 1


def _leave_colour(norm: torch.nn.GroupNorm, conv: torch.nn.Conv2d) -> None:
    """Undo the normalisation and the SiLU, in the range where that is nearly linear."""
    width, shift = conv.in_channels, 1.5
    size = width // GROUPS
    for colour in range(3):
        channel = _carrier(width, colour)
        norm.bias[channel] = shift
        scale = (1 - 1 / size) / (2 * ANCHOR**2 / size) ** 0.5  # of the normalised colour
        at_zero = F.silu(torch.tensor(shift))
        slope = (F.silu(torch.tensor(shift + scale)) - F.silu(torch.tensor(shift - scale))) / 2
        conv.weight[colour] = 0
        conv.weight[colour, channel, 1, 1] = 1 / slope
        _bias(conv)[colour] = -at_zero / slope


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


def loaded_autoencoder(
    config: AutoencoderConfig, weights: dict[str, Tensor], source: Path
) -> AutoencoderKL:
    """An autoencoder in float32 with a state dict of LDM names. CheckpointError, which names the
    file it came from, where that is none of this size."""
    autoencoder = build_autoencoder(config)
    try:
        load_ldm(autoencoder, weights)
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{source} holds no VAE of this size ({error}).") from error
    return autoencoder


def to_signed(images: np.ndarray | Tensor) -> Tensor:
    """uint8 N x H x W x 3 -> float N x 3 x H x W in -1..1."""
    return torch.as_tensor(images).permute(0, 3, 1, 2).float() / 127.5 - 1  # N H W C -> N C H W


@dataclass(frozen=True)
class AutoencoderTraining:
    """steps of `batch` crops, then `whole_steps` of `whole_batch` whole pictures."""

    steps: int
    whole_steps: int
    batch: int = 8
    whole_batch: int = 2
    learning_rate: float = 5e-4
    warmup: int = 100
    latent_noise: float = 0.05
    latent_penalty: float = 1e-3
    blur_weight: float = 1.0
    seed: int = 0


def train_autoencoder(
    autoencoder: AutoencoderKL,
    images: np.ndarray,
    training: AutoencoderTraining,
    report: Callable[[float], None],
) -> None:
    """Reconstruct pictures (uint8 N x H x W x 3), in place; ends on the averaged weights.

    L1 of brightness and of colour differences, plus the same after a strong blur (hue), plus a
    penalty that keeps latents near unit scale. The decoder sees the posterior's mode plus a little
    noise. report: called with every step's L1.
    """
    rng = np.random.default_rng(training.seed)
    noise = torch.Generator().manual_seed(training.seed)
    total = training.steps + training.whole_steps
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=training.learning_rate)
    schedule = get_cosine_schedule_with_warmup(optimizer, training.warmup, total)
    average = EMAModel(autoencoder.parameters(), decay=0.995, use_ema_warmup=True, power=0.8)
    autoencoder.to(memory_format=torch.channels_last).train()
    for batch in _batches(images, training, rng):
        target = to_signed(batch).contiguous(memory_format=torch.channels_last)
        latent = autoencoder.encode(target).latent_dist.mode()
        shaken = latent + training.latent_noise * torch.randn(latent.shape, generator=noise)
        output = autoencoder.decode(shaken).sample
        distance = colour_distance(output, target)
        blurred = colour_distance(F.avg_pool2d(output, 8), F.avg_pool2d(target, 8))
        penalty = training.latent_penalty * latent.square().mean()
        loss = distance + training.blur_weight * blurred + penalty
        loss.backward()
        torch.nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        average.step(autoencoder.parameters())
        report(F.l1_loss(output, target).item())
    average.copy_to(autoencoder.parameters())


def colour_distance(output: Tensor, target: Tensor) -> Tensor:
    """L1 of brightness plus L1 of the differences between the colour channels, B x 3 x H x W."""
    difference = output - target
    brightness = difference.mean(dim=1).abs().mean()
    colour = (difference - difference.roll(1, dims=1)).abs().mean()
    return brightness + colour / 2


def _batches(
    images: np.ndarray, training: AutoencoderTraining, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Crops of a quarter of the height and width, every other time of pictures at half the size;
    at the end whole pictures."""
    height, width = images.shape[1] // 4, images.shape[2] // 4
    for step in range(training.steps):
        chosen = images[rng.integers(len(images), size=training.batch)]
        if step % 2:
            chosen = chosen.reshape(len(chosen), 2 * height, 2, 2 * width, 2, 3).mean(axis=(2, 4))
        top = rng.integers(chosen.shape[1] - height + 1)
        left = rng.integers(chosen.shape[2] - width + 1)
        yield chosen[:, top : top + height, left : left + width]
    for _ in range(training.whole_steps):
        yield images[rng.integers(len(images), size=training.whole_batch)]


@torch.no_grad()
def latent_scale(autoencoder: AutoencoderKL, images: np.ndarray) -> float:
    """The factor that brings latents (posterior modes) to unit standard deviation."""
    latents = autoencoder.encode(to_signed(images)).latent_dist.mode()
    return 1 / latents.std().item()
