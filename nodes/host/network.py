"""StableVITON's own networks in ComfyUI's memory manager: layers of its casting operations, its
attention, and a patcher for each."""

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.model_patcher import ModelPatcher
from torch import nn

from ...stableviton_core.model.config import ModelConfig, NetworkConfig
from ...stableviton_core.model.image_projector import ImageProjector
from ...stableviton_core.model.layers import Backend
from ...stableviton_core.model.unet import SpatialEncoder
from ...stableviton_core.model.zero_cross_attention import ZeroCrossAttention


class TryOnAdapter(nn.Module):
    """What is added to the unet: spatial encoder and zero cross-attention."""

    def __init__(self, config: NetworkConfig, backend: Backend):
        super().__init__()
        self.encoder = SpatialEncoder(config, backend)
        self.zero_cross_attention = ZeroCrossAttention(config, backend)


@dataclass(frozen=True)
class StableVITON:
    """The value of a STABLEVITON socket. network: a TryOnAdapter; condition: a ImageProjector."""

    network: ModelPatcher
    condition: ModelPatcher
    config: ModelConfig


def host_backend(dtype: torch.dtype, device: torch.device) -> Backend:
    """Layers that keep `dtype` and compute in their input's type, and the host's attention."""
    names = ("Linear", "Conv2d", "GroupNorm", "LayerNorm")
    layers = {
        n: partial(getattr(comfy.ops.manual_cast, n), dtype=dtype, device=device) for n in names
    }
    return Backend(SimpleNamespace(**layers), optimized_attention)


def build_network(
    config: NetworkConfig, dtype: torch.dtype, disable_dynamic: bool = False
) -> ModelPatcher:
    backend = host_backend(dtype, comfy.model_management.unet_offload_device())
    return _patcher(TryOnAdapter(config, backend), disable_dynamic)


def build_image_projector(
    config: ModelConfig, dtype: torch.dtype, disable_dynamic: bool = False
) -> ModelPatcher:
    backend = host_backend(dtype, comfy.model_management.unet_offload_device())
    return _patcher(ImageProjector(config, backend), disable_dynamic)


def _patcher(module: nn.Module, disable_dynamic: bool) -> ModelPatcher:
    comfy.model_management.archive_model_dtypes(module)
    patcher = ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    return patcher(
        module.eval().requires_grad_(False),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
