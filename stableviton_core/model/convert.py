"""`convert`: a released checkpoint, or its VAE, as .safetensors, with LoRAs merged into it."""

import math
from collections.abc import Callable, KeysView, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from tqdm import tqdm

from ..errors import CheckpointError
from ..files import hash_file, replace_atomically
from .checkpoint import (
    DTYPES,
    LICENSE_KEY,
    RELEASED_LICENSE,
    is_autoencoder,
    is_finite,
    join,
    parse_checkpoint,
    select_autoencoder,
)
from .config_metadata import autoencoder_from_metadata, autoencoder_to_metadata, config_to_metadata
from .lora import Lora, check_base, read_lora
from .weight_reader import explain_file, read_weights
from .weight_writer import write_tensors


def convert(
    source: Path, target: Path, dtype: str, loras: Sequence[Path] = (), strength: float = 1.0
) -> None:
    """Write a StableVITON checkpoint, or a VAE on its own, as .safetensors.

    loras: files whose updates are added to the checkpoint's weights, `strength` times each. Drops
    entries that are not weights, validates the rest, writes under another name, compares the
    written file with the source, then renames it. One tensor at a time is in memory, unless the
    source is a pickle of before PyTorch 1.6. CheckpointError where a file is something else or the
    copy differs.
    """
    if target.exists() and target.samefile(source):
        raise CheckpointError(f"{target} is the file to convert. Name another file to write.")
    if target.suffix != ".safetensors":
        raise CheckpointError(f"The converted file must end in .safetensors, got {target.name}.")
    if not math.isfinite(strength):
        raise CheckpointError(f"The strength of a LoRA must be a finite number, got {strength}.")
    weights, metadata = read_weights(source)
    license = metadata.get(LICENSE_KEY, RELEASED_LICENSE)
    updates: list[Lora] = []
    if is_autoencoder(weights):
        if loras:
            raise CheckpointError(f"{source} is a VAE on its own: no LoRA fits it.")
        with explain_file(source):
            config = autoencoder_from_metadata(metadata)
            weights = select_autoencoder(weights, config)
        description = autoencoder_to_metadata(config)
        description["modelspec.architecture"] = "stable-diffusion-v1/vae"
    else:
        checkpoint = parse_checkpoint(str(source), weights, metadata)
        weights = join(checkpoint.components)
        for file in loras:
            updates.append(read_lora(file))
            check_base(updates[-1], str(file), checkpoint.config)
        license = " AND ".join(dict.fromkeys([license, *(lora.license for lora in updates)]))
        description = config_to_metadata(checkpoint.config)
        description["modelspec.architecture"] = "stableviton"
    description |= {
        LICENSE_KEY: license,
        "stableviton.source": source.name,
        "stableviton.source_sha256": hash_file(source),
    }

    def convert_weight(key: str) -> Tensor:
        weight = weights[key]
        for lora in updates:
            weight = lora.update(key, weight, strength)
        converted = weight.to(DTYPES[dtype])
        if not is_finite(converted):
            raise CheckpointError(
                f"{key} of {source} has values beyond those of {dtype}. Convert to bf16 or fp32."
            )
        return converted

    target.parent.mkdir(parents=True, exist_ok=True)
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    with replace_atomically(target) as partial:
        write_tensors(partial, shapes, DTYPES[dtype], convert_weight, description)
        _compare_with_file(partial, shapes.keys(), convert_weight)


def _compare_with_file(
    path: Path, keys: KeysView[str], convert_weight: Callable[[str], Tensor]
) -> None:
    with safe_open(path, framework="pt") as file:
        if set(file.keys()) != set(keys):
            raise CheckpointError(f"{path} was written with other entries than were read.")
        for key in tqdm(keys, desc="verifying"):
            if not torch.equal(file.get_tensor(key), convert_weight(key)):
                raise CheckpointError(f"{path} differs at {key} from what was read. Try again.")
