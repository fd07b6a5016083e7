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
from comfy.ldm.modules.attention import optimized_attention
from comfy.model_patcher import ModelPatcher
from torch import nn

from ...stableviton_core.model.checkpoint import Checkpoint, Weights
from ...stableviton_core.model.config import ModelConfig, NetworkConfig
from ...stableviton_core.model.image_projector import ImageProjector
from ...stableviton_core.model.layers import Backend
from ...stableviton_core.model.unet import SpatialEncoder
from ...stableviton_core.model.zero_cross_attention import ZeroCrossAttention


class TryOnAdapter(nn.Module):
    """The networks that are added to the UNet: spatial encoder and zero cross-attention."""

    def __init__(self, config: NetworkConfig, backend: Backend):
        super().__init__()
        self.encoder = SpatialEncoder(config, backend)
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
    build = partial(TryOnAdapter, checkpoint.config.network)
    return _load(build, weights, dtype, disable_dynamic)


def load_image_projector(checkpoint: Checkpoint) -> ModelPatcher:
    """Kept in the file's own type of weights."""
    weights = checkpoint.components["image_projector"]
    build = partial(ImageProjector, checkpoint.config)
    return _load(build, weights, comfy.utils.weight_dtype(weights), disable_dynamic=False)


def _load(
    build: Callable[[Backend], nn.Module],
    weights: Weights,
    dtype: torch.dtype,
    disable_dynamic: bool,
) -> ModelPatcher:
    offload_device = comfy.model_management.unet_offload_device()
    module = build(_host_backend(dtype, offload_device)).eval().requires_grad_(False)
    comfy.model_management.archive_model_dtypes(module)
    patcher_class = ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = patcher_class(
        module, load_device=comfy.model_management.get_torch_device(), offload_device=offload_device
    )
    module.load_state_dict(weights, strict=True, assign=patcher.is_dynamic())
    return patcher


def _host_backend(dtype: torch.dtype, device: torch.device) -> Backend:
    """Layers that store `dtype` and compute in their input's type, and the host's attention."""
    layers = {
        name: partial(getattr(comfy.ops.manual_cast, name), dtype=dtype, device=device)
        for name in ("Linear", "Conv2d", "GroupNorm", "LayerNorm")
    }
    return Backend(SimpleNamespace(**layers), optimized_attention)
