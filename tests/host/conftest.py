"""A real ComfyUI in this process, on the CPU, with the pack loaded as a custom node."""

import asyncio
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from helpers.checkpoints import write_checkpoint
from helpers.person_nodes import PHOTO
from stableviton_core.image_tensors import to_images
from stableviton_core.images import read_image

ROOT = Path(__file__).resolve().parents[2]

COMFYUI = os.environ.get("COMFYUI_PATH")
assert COMFYUI, "COMFYUI_PATH names no ComfyUI; `python scripts/test.py` sets it"
sys.path.insert(0, COMFYUI)

from comfy.cli_args import args  # noqa: E402 -- after ComfyUI is on the path

args.cpu = True


class Host:
    """ComfyUI's modules and the pack's. `node` runs a node as the executor does."""

    def __init__(self, base: Path, pack: str):
        self.base = base
        self.made_folder = (base / "models" / "stableviton").is_dir()
        self._pack = pack

    def module(self, name: str) -> ModuleType:
        """A module of the pack, by its path below the root."""
        return importlib.import_module(f"{self._pack}.{name}")

    @torch.inference_mode()
    def node(self, node_id: str, **inputs) -> tuple:
        import nodes

        node = nodes.NODE_CLASS_MAPPINGS[node_id]
        if hasattr(node, "execute"):
            return node.execute(**inputs).result
        return getattr(node(), node.FUNCTION)(**inputs)


@pytest.fixture(scope="session")
def host(tmp_path_factory) -> Host:
    assert "folder_paths" not in sys.modules, "it reads the base directory when it is imported"
    base = tmp_path_factory.mktemp("comfyui")
    args.base_directory = str(base)
    import nodes

    assert asyncio.run(nodes.load_custom_node(str(ROOT))), "the pack does not load"
    pack = next(
        n
        for n, m in sys.modules.items()
        if getattr(m, "__file__", None) == str(ROOT / "__init__.py")
    )
    return Host(base, pack)


@pytest.fixture(scope="session")
def small_checkpoint(host) -> str:
    """The name of the small test checkpoint in the `stableviton` folder."""
    return write_checkpoint(host.base / "models" / "stableviton" / "small.safetensors").name


@pytest.fixture(scope="session")
def loaded(host, small_checkpoint) -> tuple:
    """MODEL, STABLEVITON, CLIP_VISION, VAE of the small checkpoint."""
    return host.node("StableVITONLoader", ckpt_name=small_checkpoint, weight_dtype="fp32")


@pytest.fixture(scope="session")
def photo() -> Tensor:
    return to_images([read_image(PHOTO)])


@pytest.fixture(scope="session")
def working(host, photo) -> Tensor:
    return host.node("StableVITONCrop", photo=photo, width=384, height=512, around="person")[0]


@pytest.fixture
def errors(host):
    return host.module("stableviton_core.errors").StableVITONError
