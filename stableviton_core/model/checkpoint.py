"""Checkpoint files: which key belongs to which part, what a file's network looks like, and what to
say about a file that is something else.

A checkpoint is one flat state dict in the released key names. A .safetensors file of ours carries
its configuration in the metadata entry `stableviton.config`; a file without it has the released
size.
"""

import codecs
import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ..errors import CheckpointError
from ..files import replace_atomically
from .config import AutoencoderConfig, ClipConfig, ModelConfig, NetworkConfig
from .image_projector import ImageProjector
from .unet import SpatialEncoder, UNet
from .zero_cross_attention import ZeroCrossAttention

CONFIG_KEY = "stableviton.config"

# Longest first: a key belongs to the first prefix that it starts with.
PREFIXES = {
    "unet": "model.diffusion_model.",
    "zero_cross_attention": "model.diffusion_model.",  # told from the unet by ZERO_CROSS_ATTENTION_MODULES
    "encoder": "control_model.",
    "clip": "cond_stage_model.transformer.",
    "image_projector": "cond_stage_model.",
    "autoencoder": "first_stage_model.",
}
PARTS = tuple(PREFIXES)
FIRST_CONVOLUTION = PREFIXES["unet"] + "input_blocks.0.0.weight"

ZERO_CROSS_ATTENTION_MODULES = ("warp_flow_blks.", "warp_zero_convs.")
IMAGE_PROJECTOR_MODULES = ("proj_out.", "learnable_vector")

# In released files, without weights: the noise schedule's buffers and unused layers.
UNUSED = frozenset({
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod", "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod", "posterior_variance", "posterior_log_variance_clipped",
    "posterior_mean_coef1", "posterior_mean_coef2", "logvar", "lastzc.weight", "lastzc.bias",
    "cond_stage_model.transformer.vision_model.embeddings.position_ids",
})  # fmt: skip

Weights = dict[str, Tensor]


def split(weights: Mapping[str, Tensor]) -> dict[str, Weights]:
    """A checkpoint's state dict -> the state dict of each of PARTS, prefixes removed.

    Keys of no part are left as they are under "unknown".
    """
    parts: dict[str, Weights] = {name: {} for name in (*PARTS, "unknown")}
    for key, value in weights.items():
        if key in UNUSED:
            continue
        name, short = _place(key)
        parts[name][short] = value
    return parts


def _place(key: str) -> tuple[str, str]:
    """The part a key belongs to, and its name there."""
    if key.startswith(IMAGE_PROJECTOR_MODULES):
        return "image_projector", key
    for name, prefix in PREFIXES.items():
        if key.startswith(prefix):
            short = key.removeprefix(prefix)
            return (
                "zero_cross_attention" if short.startswith(ZERO_CROSS_ATTENTION_MODULES) else name
            ), short
    return "unknown", key


def join(parts: Mapping[str, Mapping[str, Tensor]]) -> Weights:
    """The inverse of `split`."""
    return {
        full_key(name, key): value for name, part in parts.items() for key, value in part.items()
    }


def full_key(part: str, key: str) -> str:
    """The name in the file of a part's entry."""
    bare = part == "image_projector" and key.startswith(IMAGE_PROJECTOR_MODULES)
    return key if bare else PREFIXES[part] + key


def config_to_metadata(config: ModelConfig) -> dict[str, str]:
    return {CONFIG_KEY: json.dumps(asdict(config))}


def config_from_metadata(metadata: Mapping[str, str] | None) -> ModelConfig:
    """The configuration in a file's metadata; the released one where there is none.

    CheckpointError where the entry is there and cannot be read.
    """
    text = (metadata or {}).get(CONFIG_KEY)
    if text is None:
        return ModelConfig()
    try:
        entries = json.loads(text)
        return ModelConfig(
            network=NetworkConfig(**tuples(entries["network"])),
            clip=ClipConfig(**entries["clip"]),
            autoencoder=AutoencoderConfig(**tuples(entries["autoencoder"])),
            mapper_layers=entries["mapper_layers"],
            mapper_heads=entries["mapper_heads"],
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"its metadata entry {CONFIG_KEY!r} does not describe a network ({error}). "
            "Write the file again with `python -m stableviton_core convert`."
        ) from error


def tuples(entries: dict) -> dict:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in entries.items()}


def is_autoencoder(weights: Mapping[str, Tensor]) -> bool:
    """Whether a file is a VAE on its own, its keys without a prefix."""
    return any(key.startswith("decoder.up.") for key in weights)


def check_kind(weights: Mapping[str, Tensor]) -> None:
    """CheckpointError that says what a file is, where it is a known kind of another model."""
    first = weights.get(FIRST_CONVOLUTION)
    has_encoder = any(key.startswith(PREFIXES["encoder"]) for key in weights)
    if first is None:
        if is_autoencoder(weights):
            raise CheckpointError("it is a VAE on its own. Load it with ComfyUI's VAELoader.")
        raise CheckpointError(
            f"it holds no UNet: none of its {len(weights)} entries is "
            f"{FIRST_CONVOLUTION!r}. Take a StableVITON checkpoint "
            "(VITONHD.ckpt, or a file that `python -m stableviton_core convert` wrote)."
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


def list_mismatches(part: str, module: torch.nn.Module, found: Mapping[str, Tensor]) -> list[str]:
    """What keeps a part's weights from loading strictly into a module."""
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    problems = [f"missing {full_key(part, key)}" for key in expected if key not in found]
    problems += [f"unexpected {full_key(part, key)}" for key in found if key not in expected]
    problems += [
        f"{full_key(part, key)} is {tuple(found[key].shape)}, not {shape}"
        for key, shape in expected.items()
        if key in found and tuple(found[key].shape) != shape
    ]
    return problems


def list_network_mismatches(parts: Mapping[str, Weights], config: ModelConfig) -> list[str]:
    """The list_mismatches of all parts that this package defines, and keys of no part."""
    with torch.device("meta"):
        modules = {
            "unet": UNet(config.network),
            "zero_cross_attention": ZeroCrossAttention(config.network),
            "encoder": SpatialEncoder(config.network),
            "image_projector": ImageProjector(config),
        }
    problems = [f"unexpected {key}" for key in parts["unknown"]]
    for name, module in modules.items():
        problems += list_mismatches(name, module, parts[name])
    return problems


def raise_mismatches(problems: list[str]) -> None:
    """CheckpointError that lists at most ten of the list_mismatches; nothing where there are none."""
    if not problems:
        return
    shown = "\n".join(f"  {problem}" for problem in problems[:10])
    more = f"\n  and {len(problems) - 10} more" if len(problems) > 10 else ""
    raise CheckpointError(
        f"{len(problems)} of its entries do not fit the network:\n{shown}{more}\n"
        "The file is damaged, incomplete, or of another size than its metadata says. Download or "
        "convert it again."
    )


DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

LICENSE_KEY = "modelspec.license"  # in a file's metadata
RELEASED_LICENSE = "CC BY-NC-SA 4.0"


class _ModelCheckpoint:
    """Stands in for Lightning's callback class, which is a mere dictionary key in its files."""


# What Lightning files name besides tensors: the callback, and numbers of numpy's.
HARMLESS: list[Any] = [
    (_ModelCheckpoint, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
    (_ModelCheckpoint, "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint"),
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float64DType,
    codecs.encode,
]

UNREADABLE = (
    SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, KeyError, AttributeError,
    TypeError,
)  # fmt: skip


def read_weights(path: Path) -> tuple[Weights, dict[str, str]]:
    """Tensors and metadata of a .safetensors or a pickled checkpoint, mapped from the file.

    CheckpointError that names the file where it cannot be read; no code in it runs.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file.")
    try:
        if path.suffix in (".safetensors", ".sft"):
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
        zipped = zipfile.is_zipfile(path)  # only these can be mapped
        with torch.serialization.safe_globals(HARMLESS):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except UNREADABLE as error:
        reason = (str(error).splitlines() or ["empty file"])[0]
        raise CheckpointError(
            f"{path} cannot be read as weights ({reason}). It is truncated, holds something else, "
            "or wants to run code, which is never done. Download it again."
        ) from error
    weights = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    return {key: v for key, v in weights.items() if isinstance(v, torch.Tensor)}, {}


def convert(source: Path, target: Path, dtype: str) -> None:
    """Write a StableVITON checkpoint, or a VAE on its own, as .safetensors.

    Drops what is not weights, checks that the rest fits the network, writes under another name,
    compares what was written with what was read, then renames. CheckpointError where the source
    is something else or the copy differs.
    """
    if target.exists() and target.samefile(source):
        raise CheckpointError(f"{target} is the file to convert. Name another file to write.")
    if target.suffix != ".safetensors":
        raise CheckpointError(f"The converted file must end in .safetensors, got {target.name}.")
    weights, metadata = read_weights(source)
    try:
        kept, described = _content(weights, metadata)
    except CheckpointError as error:
        raise CheckpointError(f"{source.name} cannot be converted: {error}") from error
    converted = {
        key: value.to(DTYPES[dtype]).contiguous() if value.is_floating_point() else value
        for key, value in kept.items()
    }
    described |= {
        LICENSE_KEY: metadata.get(LICENSE_KEY, RELEASED_LICENSE),
        "stableviton.source": source.name,
        "stableviton.source_sha256": _sha256(source),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(target) as partial:
        save_file(converted, partial, described)
        _verify(partial, converted)


def validate_checkpoint(
    weights: Weights, metadata: Mapping[str, str]
) -> tuple[ModelConfig, dict[str, Weights]]:
    """The configuration and the parts of a whole StableVITON checkpoint; CheckpointError where it
    is another kind, or does not fit its configuration."""
    check_kind(weights)
    config = config_from_metadata(metadata)
    parts = split(weights)
    problems = [f"no entry of the {p}" for p in ("clip", "autoencoder") if not parts[p]]
    raise_mismatches(problems + list_network_mismatches(parts, config))
    return config, parts


def _content(weights: Weights, metadata: dict[str, str]) -> tuple[Weights, dict[str, str]]:
    """The entries worth keeping, and what they are."""
    if is_autoencoder(weights):
        kept = {key: value for key, value in weights.items() if not key.startswith("loss.")}
        return kept, {"modelspec.architecture": "stable-diffusion-v1/vae"}
    config, _ = validate_checkpoint(weights, metadata)
    kept = {key: value for key, value in weights.items() if key not in UNUSED}
    return kept, config_to_metadata(config) | {"modelspec.architecture": "stableviton"}


def _verify(path: Path, expected: Weights) -> None:
    with safe_open(path, framework="pt") as file:
        if set(file.keys()) != set(expected):
            raise CheckpointError(f"{path} was written with other entries than were read.")
        for key, value in tqdm(expected.items(), desc="verifying"):
            if not torch.equal(file.get_tensor(key), value):
                raise CheckpointError(f"{path} differs at {key} from what was read. Try again.")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            digest.update(chunk)
    return digest.hexdigest()
