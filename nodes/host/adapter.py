"""StableVITON's own networks in ComfyUI's memory manager: built of the host's casting layers, with
its attention, each under a ModelPatcher."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from ...stableviton_core.model.checkpoint import Checkpoint
from ...stableviton_core.model.config import ModelConfig, NetworkConfig
from ...stableviton_core.model.image_projector import ImageProjector
from ...stableviton_core.model.layers import Attention, Backend
from ...stableviton_core.model.unet import SpatialEncoder
from ...stableviton_core.model.weight_reader import Weights
from ...stableviton_core.model.zero_cross_attention import ZeroCrossAttention
from .attention import choose_attention
from .dtypes import choose_compute_dtype


class TryOnAdapter(nn.Module):
    """The networks that are added to the UNet: spatial encoder and zero cross-attention."""

    def __init__(self, config: NetworkConfig, backend: Backend):
        super().__init__()
        self.encoder = SpatialEncoder(config, backend, with_unused=False)
        self.zero_cross_attention = ZeroCrossAttention(config, backend)


@dataclass(frozen=True)
class StableVITON:
    """The value of a STABLEVITON socket: patchers of a TryOnAdapter and of an ImageProjector."""

    adapter: ModelPatcher
    image_projector: ModelPatcher
    config: ModelConfig


def load_adapter(
    checkpoint: Checkpoint, dtype: torch.dtype, disable_dynamic: bool = False
) -> ModelPatcher:
    weights = {
        f"{name}.{key}": value
        for name in ("encoder", "zero_cross_attention")
        for key, value in checkpoint.components[name].items()
    }
    device = comfy.model_management.get_torch_device()
    operations = comfy.ops.pick_operations(dtype, choose_compute_dtype(dtype, device), device)
    build = partial(TryOnAdapter, checkpoint.config.network)
    return _load(build, weights, operations, dtype, disable_dynamic)


def load_image_projector(checkpoint: Checkpoint) -> ModelPatcher:
    """Kept in the file's own type of weights, computed in the type of its input."""
    weights = checkpoint.components["image_projector"]
    build = partial(ImageProjector, checkpoint.config)
    dtype = comfy.utils.weight_dtype(weights)
    return _load(build, weights, comfy.ops.manual_cast, dtype, disable_dynamic=False)


def _load(
    build: Callable[[Backend], nn.Module],
    weights: Weights,
    operations: type,
    dtype: torch.dtype,
    disable_dynamic: bool,
) -> ModelPatcher:
    """The module under a patcher, with those of the weights that it has."""
    device = comfy.model_management.get_torch_device()
    offload_device = comfy.model_management.unet_offload_device()
    backend = _make_backend(operations, dtype, offload_device, choose_attention(device))
    module = build(backend).eval().requires_grad_(False)
    if comfy.model_management.force_channels_last():
        module.to(memory_format=torch.channels_last)
    comfy.model_management.archive_model_dtypes(module)
    patcher_class = ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = patcher_class(module, load_device=device, offload_device=offload_device)
    used = {key: weights[key] for key in module.state_dict()}
    module.load_state_dict(used, strict=True, assign=patcher.is_dynamic())
    return patcher


def _make_backend(
    operations: type, dtype: torch.dtype, device: torch.device, attention: Attention
) -> Backend:
    """Layers of one of the host's classes of operations, whose weights have a type and a device."""
    layers = {
        name: partial(getattr(operations, name), dtype=dtype, device=device)
        for name in ("Linear", "Conv2d", "GroupNorm", "LayerNorm")
    }
    return Backend(SimpleNamespace(**layers), attention)
