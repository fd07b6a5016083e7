"""The large person networks of stableviton_core, on ComfyUI's device through its memory manager."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from ...stableviton_core.model.weight_reader import Weights
from ...stableviton_core.person import large_networks
from ...stableviton_core.person.large_networks import DensePose, OpenPose, SegFormer
from .load_checkpoint import read_weights


class PersonNetwork(nn.Module):
    """Wraps a network, so that the memory manager can set attributes (a TorchScript has none)."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network


@contextmanager
def load_on_device(network: nn.Module) -> Iterator[torch.device]:
    """Load a network on ComfyUI's device through its memory manager, and yield the device."""
    patcher = ModelPatcher(
        PersonNetwork(network),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    comfy.model_management.load_models_gpu([patcher], force_full_load=True)
    yield patcher.load_device


def load_densepose(path: Path) -> AbstractContextManager[DensePose]:
    return large_networks.load_densepose(path, load_on_device)


def load_segformer(folder: Path) -> AbstractContextManager[SegFormer]:
    return large_networks.load_segformer(folder, load_on_device)


def load_openpose(path: Path) -> AbstractContextManager[OpenPose]:
    return large_networks.load_openpose(path, _read_tensors, load_on_device)


def _read_tensors(path: Path) -> Weights:
    weights, _ = read_weights(path)
    return weights
