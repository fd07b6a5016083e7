"""The VAE: diffusers' AutoencoderKL, with the LDM key names of checkpoints (`first_stage_model.*`),
as ComfyUI and the released files have them."""

import re
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from einops import rearrange
from torch import Tensor

from .checkpoint import select_autoencoder
from .config import AutoencoderConfig
from .weight_reader import explain_file


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


LDM_NAMES = (
    (r"^encoder\.down_blocks\.", "encoder.down."),
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
)


def to_ldm_key(key: str, levels: int) -> str:
    """diffusers' name of an AutoencoderKL parameter -> the LDM name, which counts the decoder's
    `levels` from the finest."""
    up_block = r"^decoder\.up_blocks\.(\d+)\."
    key = re.sub(up_block, lambda match: f"decoder.up.{levels - 1 - int(match[1])}.", key)
    for pattern, name in LDM_NAMES:
        key = re.sub(pattern, name, key)
    return key


def to_ldm(autoencoder: AutoencoderKL) -> dict[str, Tensor]:
    """State dict in LDM names; the attention's linear weights become 1 x 1 convolutions."""
    levels = len(autoencoder.config["block_out_channels"])
    weights = {}
    for key, value in autoencoder.state_dict().items():
        name = to_ldm_key(key, levels)
        is_linear = re.search(r"\.attn_1\.(q|k|v|proj_out)\.weight$", name)
        weights[name] = value[:, :, None, None] if is_linear else value
    return weights


def load_ldm(autoencoder: AutoencoderKL, weights: dict[str, Tensor]) -> None:
    """Load a state dict of LDM names, strictly."""
    levels = len(autoencoder.config["block_out_channels"])
    renamed = {
        key: weights[to_ldm_key(key, levels)].reshape(value.shape)
        for key, value in autoencoder.state_dict().items()
    }
    autoencoder.load_state_dict(renamed, strict=True)


def load_autoencoder(
    config: AutoencoderConfig, weights: dict[str, Tensor], source: Path
) -> AutoencoderKL:
    """A float32 autoencoder with a state dict of LDM names. source: the file, for the error.
    CheckpointError where the weights are none of this size, before it is built."""
    with explain_file(source):
        weights = select_autoencoder(weights, config)
    autoencoder = build_autoencoder(config)
    load_ldm(autoencoder, weights)
    return autoencoder


def normalize_uint8(images: np.ndarray | Tensor) -> Tensor:
    """uint8 B x H x W x 3 -> float B x 3 x H x W in -1..1."""
    return rearrange(torch.as_tensor(images), "b h w c -> b c h w").float() / 127.5 - 1


@torch.no_grad()
def encode_images(autoencoder: AutoencoderKL, images: np.ndarray) -> Tensor:
    """uint8 B x H x W x 3 -> scaled posterior modes B x 4 x H/8 x W/8."""
    pixels = normalize_uint8(images).to(autoencoder.device, autoencoder.dtype)
    mode = autoencoder.encode(pixels).latent_dist.mode()
    return mode * autoencoder.config["scaling_factor"]


@torch.no_grad()
def decode_latents(autoencoder: AutoencoderKL, latents: Tensor) -> np.ndarray:
    """Scaled latents B x 4 x h x w -> uint8 B x 8h x 8w x 3."""
    latents = latents.to(autoencoder.device, autoencoder.dtype)
    images = autoencoder.decode(latents / autoencoder.config["scaling_factor"]).sample
    levels = (rearrange(images.float(), "b c h w -> b h w c") + 1) * 127.5
    return levels.round().clamp(0, 255).to(torch.uint8).cpu().numpy()
