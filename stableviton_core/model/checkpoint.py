"""Checkpoint files: reading, the key layout, the configuration in the metadata, validation.

A checkpoint is one flat state dict in the released key names, split here into components: UNet,
zero cross-attention, spatial encoder, CLIP tower, image projector and autoencoder. A .safetensors
file of this project carries its configuration in the metadata entry `stableviton.config`; a file
without it has the released size.
"""

import codecs
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import CheckpointError
from .config import AutoencoderConfig, ClipConfig, ModelConfig, NetworkConfig
from .image_projector import ImageProjector
from .unet import SpatialEncoder, UNet
from .zero_cross_attention import ZeroCrossAttention

CONFIG_KEY = "stableviton.config"
LICENSE_KEY = "modelspec.license"
RELEASED_LICENSE = "CC BY-NC-SA 4.0"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# A key belongs to the first prefix that it starts with. Zero cross-attention shares the UNet's.
PREFIXES = {
    "unet": "model.diffusion_model.",
    "zero_cross_attention": "model.diffusion_model.",
    "encoder": "control_model.",
    "clip": "cond_stage_model.transformer.",
    "image_projector": "cond_stage_model.",
    "autoencoder": "first_stage_model.",
}
COMPONENTS = tuple(PREFIXES)
ZERO_CROSS_ATTENTION_MODULES = ("warp_flow_blks.", "warp_zero_convs.")
IMAGE_PROJECTOR_MODULES = ("proj_out.", "learnable_vector")  # in the file without a prefix
FIRST_CONVOLUTION = PREFIXES["unet"] + "input_blocks.0.0.weight"

# In released files, without weights: the noise schedule's buffers and unused layers.
UNUSED = frozenset({
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod", "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod", "posterior_variance", "posterior_log_variance_clipped",
    "posterior_mean_coef1", "posterior_mean_coef2", "logvar", "lastzc.weight", "lastzc.bias",
    "cond_stage_model.transformer.vision_model.embeddings.position_ids",
})  # fmt: skip

Weights = dict[str, Tensor]
ModuleBuilder = Callable[[ModelConfig], Mapping[str, nn.Module]]


# Reading


class _ModelCheckpoint:
    """Stands in for Lightning's callback class, which its files name as a dictionary key."""


# What Lightning files name besides tensors: the callback, and numpy numbers.
SAFE_GLOBALS: list[Any] = [
    (_ModelCheckpoint, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
    (_ModelCheckpoint, "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint"),
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float64DType,
    codecs.encode,
]

UNREADABLE = (
    SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile, struct.error, RuntimeError,
    EOFError, ValueError, KeyError, AttributeError, TypeError,
)  # fmt: skip


@contextmanager
def explain_unreadable(name: str) -> Iterator[None]:
    """CheckpointError in place of what libraries raise on a file without readable weights. name: of
    the file."""
    try:
        yield
    except UNREADABLE as error:
        reason = (str(error).splitlines() or ["empty file"])[0]
        raise CheckpointError(
            f"{name} cannot be read as weights ({type(error).__name__}: {reason}). It is "
            "truncated, holds something else, or wants to run code, which is never done. Download "
            "it again, or save its weights as .safetensors."
        ) from error


def read_weights(path: Path) -> tuple[Weights, dict[str, str]]:
    """Tensors and metadata of a .safetensors or a pickled checkpoint, memory-mapped.

    No code in the file runs. CheckpointError names a file that cannot be read.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file.")
    with explain_unreadable(str(path)):
        if path.suffix in (".safetensors", ".sft"):
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
        zipped = zipfile.is_zipfile(path)  # only these can be mapped
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        return select_tensors(loaded), {}


def select_tensors(loaded: Any) -> Weights:
    """The state dict in a loaded file: its own entries, or those of its entry "state_dict"."""
    weights = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    return {key: value for key, value in weights.items() if isinstance(value, Tensor)}


# Layout of keys


def split(weights: Mapping[str, Tensor]) -> dict[str, Weights]:
    """A checkpoint's state dict -> the state dict of each of COMPONENTS, prefixes removed.

    Keys of no component are left as they are under "unknown"; keys without weights are dropped.
    """
    components: dict[str, Weights] = {name: {} for name in (*COMPONENTS, "unknown")}
    for key, value in weights.items():
        if key not in UNUSED:
            name, short = _locate_key(key)
            components[name][short] = value
    return components


def _locate_key(key: str) -> tuple[str, str]:
    """The component that a key of a file belongs to, and the key's name there."""
    if key.startswith(IMAGE_PROJECTOR_MODULES):
        return "image_projector", key
    for name, prefix in PREFIXES.items():
        if key.startswith(prefix):
            short = key.removeprefix(prefix)
            cross = short.startswith(ZERO_CROSS_ATTENTION_MODULES)
            return "zero_cross_attention" if cross else name, short
    return "unknown", key


def full_key(component: str, key: str) -> str:
    """The key in the file of a component's entry."""
    bare = component == "image_projector" and key.startswith(IMAGE_PROJECTOR_MODULES)
    return key if bare else PREFIXES[component] + key


def join(components: Mapping[str, Mapping[str, Tensor]]) -> Weights:
    """The inverse of `split`."""
    return {
        full_key(name, key): value
        for name, weights in components.items()
        for key, value in weights.items()
    }


# Configuration


def config_to_metadata(config: ModelConfig) -> dict[str, str]:
    return {CONFIG_KEY: json.dumps(asdict(config))}


def config_from_metadata(metadata: Mapping[str, str] | None) -> ModelConfig:
    """The configuration in a file's metadata; the released one where there is none.

    CheckpointError where the entry exists and cannot be read.
    """
    text = (metadata or {}).get(CONFIG_KEY)
    if text is None:
        return ModelConfig()
    try:
        entries = json.loads(text)
        return ModelConfig(
            network=NetworkConfig(**lists_to_tuples(entries["network"])),
            clip=ClipConfig(**entries["clip"]),
            autoencoder=AutoencoderConfig(**lists_to_tuples(entries["autoencoder"])),
            mapper_layers=entries["mapper_layers"],
            mapper_heads=entries["mapper_heads"],
        )
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"its metadata entry {CONFIG_KEY!r} does not describe a network ({error}). "
            "Write the file again with `python -m stableviton_core convert`."
        ) from error


def lists_to_tuples(entries: dict) -> dict:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in entries.items()}


# Validation


@dataclass(frozen=True)
class Checkpoint:
    """A validated checkpoint: configuration, and the state dict of each of COMPONENTS."""

    config: ModelConfig
    components: dict[str, Weights]
    license: str = RELEASED_LICENSE


def parse_checkpoint(
    name: str,
    weights: Weights,
    metadata: Mapping[str, str] | None,
    build_modules: ModuleBuilder | None = None,
) -> Checkpoint:
    """Check, split and validate what was read from a file.

    name: of the file. build_modules: CLIP tower ("clip") and autoencoder ("autoencoder") of a
    configuration, to be validated beside this project's own networks; called on the meta device.
    CheckpointError with the name, what is wrong and the remedy.
    """
    try:
        check_kind(weights)
        config, components = config_from_metadata(metadata), split(weights)
        raise_mismatches(list_mismatches(config, components, build_modules))
    except CheckpointError as error:
        raise CheckpointError(f"{name} is not a StableVITON checkpoint: {error}") from error
    del components["unknown"]
    return Checkpoint(config, components, (metadata or {}).get(LICENSE_KEY, RELEASED_LICENSE))


def is_autoencoder(weights: Mapping[str, Tensor]) -> bool:
    """Whether a file is a VAE on its own, its keys without a prefix."""
    return any(key.startswith("decoder.up.") for key in weights)


def check_kind(weights: Mapping[str, Tensor]) -> None:
    """CheckpointError for the weights of another model, with its kind where that is known."""
    first = weights.get(FIRST_CONVOLUTION)
    has_encoder = any(key.startswith(PREFIXES["encoder"]) for key in weights)
    if first is None:
        if is_autoencoder(weights):
            raise CheckpointError("it is a VAE on its own. Load it with ComfyUI's VAELoader.")
        raise CheckpointError(
            f"it holds no UNet: none of its {len(weights)} entries is {FIRST_CONVOLUTION!r}. Take "
            "a StableVITON checkpoint (VITONHD.ckpt, or a file that `python -m stableviton_core "
            "convert` wrote)."
        )
    channels = first.shape[1] if first.ndim == 4 else 0
    kinds = {
        4: "an ordinary Stable Diffusion checkpoint",
        9: "a Paint-by-Example or inpainting checkpoint",
    }
    if not has_encoder or channels in kinds:
        kind = kinds.get(channels, "a checkpoint without StableVITON's spatial encoder")
        raise CheckpointError(
            f"it is {kind}: its UNet takes {channels} channels and it has "
            f"{'a' if has_encoder else 'no'} spatial encoder (control_model). StableVITON takes 13 "
            "channels: agnostic latent, mask and DensePose beside the noisy latent. Take a "
            "StableVITON checkpoint such as VITONHD.ckpt; ordinary checkpoints load with "
            "ComfyUI's CheckpointLoaderSimple."
        )


def list_mismatches(
    config: ModelConfig,
    components: Mapping[str, Weights],
    build_modules: ModuleBuilder | None = None,
) -> list[str]:
    """Everything that keeps the result of `split` from loading strictly into the networks of a
    configuration (see `parse_checkpoint`), and keys of no component."""
    with torch.device("meta"):
        modules = {
            "unet": UNet(config.network),
            "zero_cross_attention": ZeroCrossAttention(config.network),
            "encoder": SpatialEncoder(config.network),
            "image_projector": ImageProjector(config),
            **(build_modules(config) if build_modules else {}),
        }
    problems = [f"unexpected {key}" for key in components["unknown"]]
    problems += [f"no entry of the {name}" for name in COMPONENTS if not components[name]]
    for name, module in modules.items():
        if components[name]:
            problems += _compare_state_dicts(name, module.state_dict(), components[name])
    return problems


def _compare_state_dicts(
    component: str, expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> list[str]:
    mismatches = [f"missing {full_key(component, key)}" for key in expected if key not in weights]
    for key, value in weights.items():
        name, shape = full_key(component, key), tuple(value.shape)
        if key not in expected:
            mismatches.append(f"unexpected {name}")
        elif shape != tuple(expected[key].shape):
            mismatches.append(f"{name} is {shape}, not {tuple(expected[key].shape)}")
    return mismatches


def raise_mismatches(mismatches: list[str]) -> None:
    """CheckpointError that lists at most ten mismatches; nothing where there are none."""
    if not mismatches:
        return
    listed = "\n".join(f"  {mismatch}" for mismatch in mismatches[:10])
    more = f"\n  and {len(mismatches) - 10} more" if len(mismatches) > 10 else ""
    raise CheckpointError(
        f"{len(mismatches)} of its entries do not fit the network:\n{listed}{more}\n"
        "The file is damaged, incomplete, or of another size than its metadata says. Download or "
        "convert it again."
    )
