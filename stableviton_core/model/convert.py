"""`convert`: a released checkpoint, or its VAE, as .safetensors."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from ..errors import CheckpointError
from ..files import hash_file, replace_atomically
from .checkpoint import (
    DTYPES,
    LICENSE_KEY,
    RELEASED_LICENSE,
    Weights,
    config_to_metadata,
    is_autoencoder,
    join,
    parse_checkpoint,
    read_weights,
)


def convert(source: Path, target: Path, dtype: str) -> None:
    """Write a StableVITON checkpoint, or a VAE on its own, as .safetensors.

    Drops entries that are not weights, validates the rest, writes under another name, compares the
    written file with the source, then renames it. CheckpointError where the source is something
    else or the copy differs.
    """
    if target.exists() and target.samefile(source):
        raise CheckpointError(f"{target} is the file to convert. Name another file to write.")
    if target.suffix != ".safetensors":
        raise CheckpointError(f"The converted file must end in .safetensors, got {target.name}.")
    weights, metadata = read_weights(source)
    if is_autoencoder(weights):
        weights = {key: value for key, value in weights.items() if not key.startswith("loss.")}
        description = {"modelspec.architecture": "stable-diffusion-v1/vae"}
    else:
        checkpoint = parse_checkpoint(str(source), weights, metadata)
        weights = join(checkpoint.components)
        description = config_to_metadata(checkpoint.config)
        description["modelspec.architecture"] = "stableviton"
    converted = {
        key: value.to(DTYPES[dtype]).contiguous() if value.is_floating_point() else value
        for key, value in weights.items()
    }
    description |= {
        LICENSE_KEY: metadata.get(LICENSE_KEY, RELEASED_LICENSE),
        "stableviton.source": source.name,
        "stableviton.source_sha256": hash_file(source),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(target) as partial:
        save_file(converted, partial, description)
        _compare_with_file(converted, partial)


def _compare_with_file(weights: Weights, path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        if set(file.keys()) != set(weights):
            raise CheckpointError(f"{path} was written with other entries than were read.")
        for key, value in tqdm(weights.items(), desc="verifying"):
            if not torch.equal(file.get_tensor(key), value):
                raise CheckpointError(f"{path} differs at {key} from what was read. Try again.")
