"""LoRA files: low-rank updates of a checkpoint's weights.

A weight W becomes W + strength * alpha / rank * up @ down (Hu et al., "LoRA: Low-Rank Adaptation of
Large Language Models", 2021; convolutions as matrices of out x in * rows * columns). The file has
three entries for each, under the weight's key in the checkpoint without `.weight`, which is how
ComfyUI and others name them:

    NAME.lora_down.weight   rank x in, or rank x in x rows x columns
    NAME.lora_up.weight     out x rank, or out x rank x 1 x 1
    NAME.alpha              one number

Its metadata has the base checkpoint's configuration and the entry `stableviton.lora`. Updates are
of the networks behind a STABLEVITON socket: spatial encoder, zero cross-attention, image projector.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .checkpoint import LICENSE_KEY, RELEASED_LICENSE, check_finite, full_key
from .config import ModelConfig
from .config_metadata import config_from_metadata
from .image_projector import ImageProjector
from .unet import SpatialEncoder
from .weight_reader import Weights, read_weights
from .zero_cross_attention import ZeroCrossAttention

LORA_KEY = "stableviton.lora"
DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"

Layer = nn.Linear | nn.Conv2d


@dataclass(frozen=True)
class Lora:
    """A validated LoRA file. weights: its entries. names: of the updated weights, in the checkpoint
    and without `.weight`. config: of the checkpoint that it was trained on."""

    weights: Weights
    names: tuple[str, ...]
    config: ModelConfig
    license: str

    def compute_update(self, name: str) -> Tensor:
        """alpha / rank * up @ down of a name, float32, in its weight's shape."""
        down, up = self.weights[name + DOWN].float(), self.weights[name + UP].float()
        scale = self.weights[name + ALPHA].item() / len(down)
        return (scale * up.flatten(1) @ down.flatten(1)).reshape(len(up), *down.shape[1:])

    def update(self, key: str, weight: Tensor, strength: float) -> Tensor:
        """The checkpoint's weight of a key with its update added, in float32; the weight itself
        where it has none."""
        name = key.removesuffix(".weight")
        if name == key or name not in self.names:
            return weight
        return weight.float() + strength * self.compute_update(name)


def find_layers(
    encoder: SpatialEncoder, zero_cross_attention: ZeroCrossAttention, image_projector: nn.Module
) -> dict[str, Layer]:
    """The layers that can have an update, by their names in the checkpoint: linear layers and
    convolutions, except those that the spatial encoder never runs."""
    never_run = {id(parameter) for parameter in encoder.unused_parameters()}
    modules = {
        "encoder": encoder,
        "zero_cross_attention": zero_cross_attention,
        "image_projector": image_projector,
    }
    return {
        full_key(component, name + ".weight").removesuffix(".weight"): layer
        for component, module in modules.items()
        for name, layer in module.named_modules()
        if isinstance(layer, Layer) and id(layer.weight) not in never_run
    }


def read_lora(path: Path) -> Lora:
    """CheckpointError where the file is no StableVITON LoRA."""
    return parse_lora(str(path), *read_weights(path))


def parse_lora(name: str, weights: Weights, metadata: Mapping[str, str] | None) -> Lora:
    """Validate what was read from a file. name: of the file. CheckpointError with what is wrong."""
    metadata = metadata or {}
    try:
        if LORA_KEY not in metadata:
            raise CheckpointError(
                f"its metadata has no entry {LORA_KEY!r}. Take a lora.safetensors of `stableviton "
                "train --lora-rank`; LoRAs of other models go between MODEL and sampler, with "
                "ComfyUI's own loader."
            )
        config = config_from_metadata(metadata)
        names = tuple(sorted(key.removesuffix(UP) for key in weights if key.endswith(UP)))
        _check_entries(weights, names, config)
        check_finite(weights)
    except CheckpointError as error:
        raise CheckpointError(f"{name} is not a StableVITON LoRA: {error}") from error
    return Lora(weights, names, config, metadata.get(LICENSE_KEY, RELEASED_LICENSE))


def _check_entries(weights: Weights, names: tuple[str, ...], config: ModelConfig) -> None:
    """CheckpointError where the entries are not updates of a configuration's networks."""
    differing = weights.keys() ^ {name + ending for name in names for ending in (DOWN, UP, ALPHA)}
    if differing or not names:
        raise CheckpointError(
            f"its entries must be NAME{DOWN}, NAME{UP} and NAME{ALPHA}; "
            f"{min(differing, default='all')} is missing or has another name."
        )
    with torch.device("meta"):
        layers = find_layers(
            SpatialEncoder(config.network),
            ZeroCrossAttention(config.network),
            ImageProjector(config),
        )
    for name in names:
        if name not in layers:
            raise CheckpointError(f"its network has no linear layer or convolution {name}.")
        shape, down, up = layers[name].weight.shape, weights[name + DOWN], weights[name + UP]
        ones = (1,) * (len(shape) - 2)
        expected = (len(down), *shape[1:]), (shape[0], len(down), *ones)
        if (tuple(down.shape), tuple(up.shape)) != expected or weights[name + ALPHA].numel() != 1:
            raise CheckpointError(
                f"the update of {name} has the shapes {tuple(down.shape)} and {tuple(up.shape)}, "
                f"not {expected[0]} and {expected[1]}, or no single alpha."
            )


def check_base(lora: Lora, file: str, config: ModelConfig) -> None:
    """CheckpointError where a LoRA was trained on a checkpoint of another configuration. file: the
    LoRA's."""
    trained_on, given = _flatten(asdict(lora.config)), _flatten(asdict(config))
    differing = [key for key in given if given[key] != trained_on[key]]
    if differing:
        first = differing[0]
        raise CheckpointError(
            f"{file} was trained on a checkpoint of another size: {first} {trained_on[first]} "
            f"there and {given[first]} in this one ({len(differing)} settings differ). Load the "
            "checkpoint that it was trained on."
        )


def _flatten(entries: Mapping[str, object]) -> dict[str, object]:
    """Nested dictionaries as one, keys joined by dots."""
    flat: dict[str, object] = {}
    for key, value in entries.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": entry for name, entry in _flatten(value).items()}
        else:
            flat[key] = value
    return flat
