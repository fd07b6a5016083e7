"""LoRA training: low-rank updates of chosen layers are trained, all else is frozen.

A layer's update is two small layers in it, `lora_down` and `lora_up`, whose output a forward hook
adds: a frozen weight in half precision rounds no update, and no gradient of its size is made.
`lora_up` starts at zero, so that the first step sees the base model.
"""

import json
import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import StableVITONError
from ..model.config import ModelConfig
from ..model.lora import ALPHA, LORA_KEY, UP, Layer, find_layers
from ..model.pretrained import save_weights
from ..model.tryon_model import TryOnModel
from .config import TrainConfig
from .trainable_parameters import checkpoint_name, choose_trainable

LORA = "lora.safetensors"


def add_lora(model: TryOnModel, config: TrainConfig) -> dict[str, tuple[int, int]]:
    """Freeze a model and give the layers that `lora_patterns` choose an update -> counts as of
    `choose_trainable`. The same in all processes. StableVITONError where a pattern fits none."""
    layers = _choose_layers(model, config)
    generator = torch.Generator().manual_seed(config.seed)
    for layer in layers.values():
        _add_update(layer, config.lora_rank, _choose_alpha(config), generator)
    return choose_trainable(model, ("*.lora_down.weight", "*.lora_up.weight"))


def _choose_layers(model: TryOnModel, config: TrainConfig) -> dict[str, Layer]:
    network = model.network
    layers = find_layers(network.encoder, network.zero_cross_attention, model.image_projector)

    def match(pattern: str) -> set[str]:
        names = {name for name in layers if fnmatchcase(f"{name}.weight", pattern)}
        if not names:
            raise StableVITONError(
                f"no layer that can have a LoRA update has a weight like {pattern!r}. These are "
                "the linear layers and convolutions of spatial encoder (control_model.*), zero "
                "cross-attention (model.diffusion_model.warp_*) and image projector (proj_out.*, "
                "cond_stage_model.mapper.*)."
            )
        return names

    chosen = set[str]().union(*map(match, config.lora_patterns))
    chosen -= set[str]().union(*map(match, config.freeze_patterns))
    return {name: layer for name, layer in layers.items() if name in chosen}


def _choose_alpha(config: TrainConfig) -> float:
    return config.lora_rank if config.lora_alpha is None else config.lora_alpha


def _add_update(layer: Layer, rank: int, alpha: float, generator: torch.Generator) -> None:
    down: Layer
    up: Layer
    if isinstance(layer, nn.Conv2d):
        size: Any = {name: getattr(layer, name) for name in ("kernel_size", "stride", "padding")}
        down = nn.Conv2d(layer.in_channels, rank, **size, bias=False)
        up = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
    else:
        down = nn.Linear(layer.in_features, rank, bias=False)
        up = nn.Linear(rank, layer.out_features, bias=False)
    nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5), generator=generator)
    nn.init.zeros_(up.weight)
    layer.add_module("lora_down", down)
    layer.add_module("lora_up", up)
    layer.register_forward_hook(partial(_run_update, alpha / rank))


def _run_update(scale: float, layer: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    return output + scale * layer.lora_up(layer.lora_down(*inputs))


def save_lora(
    file: Path,
    trained: Mapping[str, Tensor],
    model: ModelConfig,
    config: TrainConfig,
    metadata: Mapping[str, str],
) -> None:
    """Write the updates as `model.lora` describes. trained: by name in TryOnModel."""
    weights = {checkpoint_name(name)[1]: value for name, value in trained.items()}
    alpha = torch.tensor(_choose_alpha(config))
    names = [key.removesuffix(UP) for key in weights if key.endswith(UP)]
    description = json.dumps({"rank": config.lora_rank, "alpha": alpha.item()})
    save_weights(
        file,
        weights | {name + ALPHA: alpha.clone() for name in names},
        model,
        config.save_dtype,
        {**metadata, LORA_KEY: description},
    )
