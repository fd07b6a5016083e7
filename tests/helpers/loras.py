"""A LoRA file with seeded values, for the small test checkpoint."""

import json
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from safetensors.torch import save_file

from stableviton_core.model.config import ModelConfig
from stableviton_core.model.config_metadata import config_to_metadata
from stableviton_core.model.lora import ALPHA, DOWN, LORA_KEY, UP, find_layers
from stableviton_core.model.tryon_model import TryOnModel

from .checkpoints import SMALL
from .golden import fill

RANK = 2


def write_lora(path: Path, *patterns: str, alpha: float = 1.0, config: ModelConfig = SMALL) -> Path:
    """Updates of the weights that patterns choose, by default of all of spatial encoder and zero
    cross-attention: a function of the file's name."""
    with torch.device("meta"):
        model = TryOnModel(config)
    network, weights = model.network, {}
    layers = find_layers(network.encoder, network.zero_cross_attention, model.image_projector)
    for name, layer in layers.items():
        if not any(
            fnmatchcase(name, pattern)
            for pattern in patterns or ("control_model.*", "model.diffusion_model.*")
        ):
            continue
        rows, *columns = layer.weight.shape
        ones = (1,) * (len(columns) - 1)
        scale = layer.weight[0].numel() ** -0.5
        weights[name + DOWN] = fill(f"{path.name}/{name}/down", (RANK, *columns), scale)
        weights[name + UP] = fill(f"{path.name}/{name}/up", (rows, RANK, *ones), 0.1)
        weights[name + ALPHA] = torch.tensor(alpha)
    description = config_to_metadata(config) | {LORA_KEY: json.dumps({"rank": RANK})}
    save_file(weights, path, description)
    return path
