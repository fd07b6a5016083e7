"""`convert`: a released checkpoint, or its VAE, as .safetensors, with LoRAs merged into it."""

import math
from collections.abc import Sequence
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
from .lora import check_base, merge_lora, read_lora


def convert(
    source: Path, target: Path, dtype: str, loras: Sequence[Path] = (), strength: float = 1.0
) -> None:
    """Write a StableVITON checkpoint, or a VAE on its own, as .safetensors.

    loras: files whose updates are added to the checkpoint's weights, `strength` times each. Drops
    entries that are not weights, validates the rest, writes under another name, compares the
    written file with the source, then renames it. CheckpointError where a file is something else or
    the copy differs.
    """
    if target.exists() and target.samefile(source):
        raise CheckpointError(f"{target} is the file to convert. Name another file to write.")
    if target.suffix != ".safetensors":
        raise CheckpointError(f"The converted file must end in .safetensors, got {target.name}.")
    if not math.isfinite(strength):
        raise CheckpointError(f"The strength of a LoRA must be a finite number, got {strength}.")
    weights, metadata = read_weights(source)
    license = metadata.get(LICENSE_KEY, RELEASED_LICENSE)
    if is_autoencoder(weights):
        if loras:
            raise CheckpointError(f"{source} is a VAE on its own: no LoRA fits it.")
        weights = {key: value for key, value in weights.items() if not key.startswith("loss.")}
        description = {"modelspec.architecture": "stable-diffusion-v1/vae"}
    else:
        checkpoint = parse_checkpoint(str(source), weights, metadata)
        weights = join(checkpoint.components)
        licenses = [license]
        for file in loras:
            lora = read_lora(file)
            check_base(lora, str(file), checkpoint.config)
            weights = merge_lora(weights, lora, strength)
            licenses.append(lora.license)
        license = " AND ".join(dict.fromkeys(licenses))
        description = config_to_metadata(checkpoint.config)
        description["modelspec.architecture"] = "stableviton"
    converted = {
        key: value.to(DTYPES[dtype]).contiguous() if value.is_floating_point() else value
        for key, value in weights.items()
    }
    description |= {
        LICENSE_KEY: license,
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
