"""A complete small checkpoint: the golden network, a small CLIP tower, image projector and VAE."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from stableviton_core.model.checkpoint import join
from stableviton_core.model.config import AutoencoderConfig, ClipConfig, ModelConfig
from stableviton_core.model.config_metadata import config_to_metadata
from stableviton_core.model.tryon_model import TryOnModel
from stableviton_core.model.vae import build_autoencoder, to_ldm

from .golden import REDUCED, weight

SMALL = ModelConfig(
    network=REDUCED,
    clip=ClipConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        patch_size=32,
    ),
    autoencoder=AutoencoderConfig(model_channels=32, channel_mult=(1, 1, 1, 1), num_res_blocks=1),
    mapper_layers=1,
)


def seeded_weights(config: ModelConfig = SMALL) -> dict[str, Tensor]:
    """Every parameter of a checkpoint as a function of its key (see `golden.weight`)."""
    with torch.device("meta"):
        components = TryOnModel(config).components()
        components["autoencoder"] = to_ldm(build_autoencoder(config.autoencoder))
    return {key: weight(key, tuple(value.shape)) for key, value in join(components).items()}


def write_checkpoint(
    path: Path, dtype: torch.dtype = torch.float32, config: ModelConfig = SMALL
) -> Path:
    weights = {key: value.to(dtype) for key, value in seeded_weights(config).items()}
    save_file(weights, path, config_to_metadata(config))
    return path
