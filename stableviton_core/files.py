"""Checkpoint files on the command line: reading them without running code, and `convert`."""

import codecs
import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from .checkpoint import (
    UNUSED,
    CheckpointError,
    Weights,
    check_kind,
    config_from_metadata,
    config_to_metadata,
    is_autoencoder,
    network_findings,
    raise_findings,
    split,
)
from .config import ModelConfig
from .writing import replacing

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

LICENCE_KEY = "modelspec.license"  # in a file's metadata
RELEASED_LICENCE = "CC BY-NC-SA 4.0"


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
        LICENCE_KEY: metadata.get(LICENCE_KEY, RELEASED_LICENCE),
        "stableviton.source": source.name,
        "stableviton.source_sha256": _sha256(source),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as partial:
        save_file(converted, partial, described)
        _verify(partial, converted)


def checked_parts(
    weights: Weights, metadata: Mapping[str, str]
) -> tuple[ModelConfig, dict[str, Weights]]:
    """The configuration and the parts of a whole StableVITON checkpoint; CheckpointError where it
    is another kind, or does not fit its configuration."""
    check_kind(weights)
    config = config_from_metadata(metadata)
    parts = split(weights)
    problems = [f"no entry of the {p}" for p in ("clip", "autoencoder") if not parts[p]]
    raise_findings(problems + network_findings(parts, config))
    return config, parts


def _content(weights: Weights, metadata: dict[str, str]) -> tuple[Weights, dict[str, str]]:
    """The entries worth keeping, and what they are."""
    if is_autoencoder(weights):
        kept = {key: value for key, value in weights.items() if not key.startswith("loss.")}
        return kept, {"modelspec.architecture": "stable-diffusion-v1/vae"}
    config, _ = checked_parts(weights, metadata)
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
