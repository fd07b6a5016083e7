"""Checkpoints of a run: what the node loads and what a resumption needs, never half-written.

`checkpoint-00000100/` holds `stableviton.safetensors` (released key names, for ComfyUI),
`trained.safetensors` (the trained parameters, exactly), `state/` (accelerate's: optimizer,
schedule, gradient scaler) and, with averaging, `average.safetensors`. It is written under another
name and renamed when it is complete.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object
from diffusers import AutoencoderKL
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from ..errors import CheckpointError, StableVITONError
from ..files import replace_atomically
from ..model.checkpoint import (
    DTYPES,
    LICENSE_KEY,
    RELEASED_LICENSE,
    config_to_metadata,
    join,
    read_weights,
    split,
    validate_checkpoint,
)
from ..model.config import ModelConfig
from .model import TryOnModel
from .vae import loaded_autoencoder

WEIGHTS = "stableviton.safetensors"
TRAINED = "trained.safetensors"
AVERAGE = "average.safetensors"
STATE = "state"
SHARDED = "sharded.pt"
PREFIX = "checkpoint-"
PARTIAL = ".partial"
STEP_KEY = "stableviton.step"


def load_model(path: Path, vae: Path | None = None) -> tuple[TryOnModel, AutoencoderKL, str]:
    """Model and autoencoder of a checkpoint in float32, and its license. CheckpointError where it
    holds something else."""
    parts, config, license = read_parts(path, vae)
    model = TryOnModel(config)
    model.load_parts(parts)
    autoencoder = loaded_autoencoder(config.autoencoder, parts["autoencoder"], vae or path)
    return model, autoencoder.eval(), license


def read_parts(
    path: Path, vae: Path | None = None
) -> tuple[dict[str, dict[str, Tensor]], ModelConfig, str]:
    """A checkpoint's parts as they are stored, with the VAE of another file if one is given; its
    configuration; and its license, both files' where they differ."""
    weights, metadata = read_weights(path)
    try:
        config, parts = validate_checkpoint(weights, metadata)
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be trained: {error}") from error
    license = metadata.get(LICENSE_KEY, RELEASED_LICENSE)
    if vae is not None:
        own, described = read_weights(vae)
        parts["autoencoder"] = split(own)["autoencoder"] or own
        license = " AND ".join(dict.fromkeys([license, described.get(LICENSE_KEY, license)]))
    return parts, config, license


def save_weights(
    file: Path,
    weights: Mapping[str, Tensor],
    config: ModelConfig,
    dtype: str,
    metadata: dict[str, str],
) -> None:
    """What the node loads."""
    typed = {
        key: value.detach().to("cpu", DTYPES[dtype]).contiguous() for key, value in weights.items()
    }
    with replace_atomically(file) as partial:
        save_file(typed, partial, config_to_metadata(config) | metadata)


def with_trained(
    init: Path, vae: Path | None, trained: Mapping[tuple[str, str], Tensor]
) -> dict[str, Tensor]:
    """A checkpoint's weights, in which the trained ones (by part and checkpoint name) are new: the
    frozen ones come from the file, not from memory, where mixed precision has rounded them."""
    parts, _, _ = read_parts(init, vae)
    del parts["unknown"]
    return join(parts) | {key: value for (_, key), value in trained.items()}


def save_parameters(file: Path, parameters: Mapping[str, Tensor], step: int = 0) -> None:
    weights = {name: value.detach().cpu().contiguous() for name, value in parameters.items()}
    save_file(weights, file, {STEP_KEY: str(step)})


def sharded_state(
    accelerator: Accelerator, model: nn.Module, optimizer: Any, schedule: Any
) -> dict[str, Any] | None:
    """Under FSDP: optimizer, schedule and gradient scaler, put together from all processes. None
    otherwise. (accelerate would write all of the model beside them, and wants a state of parameters
    that have no gradient.)"""
    if accelerator.distributed_type is not DistributedType.FSDP:
        return None
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return {
        "optimizer": get_optimizer_state_dict(model, optimizer.optimizer, options=options),
        "schedule": schedule.state_dict(),
        "scaler": accelerator.scaler.state_dict() if accelerator.scaler else {},
    }


def save_state(accelerator: Accelerator, folder: Path, state: dict[str, Any] | None) -> None:
    """state: of `sharded_state`; without one accelerate writes its own."""
    if state is None:
        accelerator.save_state(str(folder))
    elif accelerator.is_main_process:
        folder.mkdir()
        torch.save(state, folder / SHARDED)


def load_state(
    accelerator: Accelerator, folder: Path, model: nn.Module, optimizer: Any, schedule: Any
) -> None:
    """StableVITONError where the run was not sharded and this one is, or the other way round."""
    sharded = accelerator.distributed_type is DistributedType.FSDP
    if sharded != (folder / SHARDED).is_file():
        raise StableVITONError(
            f"{folder} is of a run {'without' if sharded else 'with'} FSDP. Resume it in the same "
            "way, or give its stableviton.safetensors as --init with another --output."
        )
    if not sharded:
        accelerator.load_state(str(folder))
        return
    state = torch.load(folder / SHARDED, map_location="cpu", weights_only=True)
    options = StateDictOptions(full_state_dict=True, strict=False)
    set_optimizer_state_dict(model, optimizer.optimizer, state["optimizer"], options=options)
    schedule.load_state_dict(state["schedule"])
    if accelerator.scaler:
        accelerator.scaler.load_state_dict(state["scaler"])


def whole(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters that are sharded over the processes, put together one by one in the main memory;
    others as they are."""
    return {
        name: value.full_tensor().cpu() if isinstance(value, DTensor) else value
        for name, value in parameters.items()
    }


def _own_shard(value: Tensor, parameter: Tensor) -> Tensor:
    """What of a whole tensor this process has of a parameter."""
    value = value.to(parameter.device)
    if isinstance(parameter, DTensor):
        return distribute_tensor(value, parameter.device_mesh, parameter.placements)
    return value


def load_parameters(file: Path, parameters: Mapping[str, nn.Parameter]) -> None:
    """In place. StableVITONError where the file holds others."""
    weights = _read_parameters(file, parameters)
    for name, parameter in parameters.items():
        parameter.data.copy_(_own_shard(weights[name], parameter))


def load_average(file: Path, average: EMAModel, parameters: Mapping[str, nn.Parameter]) -> None:
    weights = _read_parameters(file, parameters)
    average.shadow_params = [_own_shard(weights[n], p).clone() for n, p in parameters.items()]
    with safe_open(file, framework="pt") as opened:
        average.optimization_step = int(opened.metadata()[STEP_KEY])


def _read_parameters(file: Path, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    if not file.is_file():
        raise StableVITONError(
            f"{file} is not there. Resume with the use_ema and train_patterns that the run had."
        )
    weights = load_file(file)
    if weights.keys() != parameters.keys():
        differing = sorted(weights.keys() ^ parameters.keys())
        raise StableVITONError(
            f"{file} holds other trained parameters than this run, such as {differing[0]}. Resume "
            "with the train_patterns, freeze_patterns and train_input_conv that it had."
        )
    return weights


def folder_of(output: Path, step: int) -> Path:
    return output / f"{PREFIX}{step:08d}"


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix(PREFIX))


def complete(output: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    folders = output.glob(f"{PREFIX}*")
    return sorted(f for f in folders if f.is_dir() and f.name.removeprefix(PREFIX).isdigit())


def resumed_from(output: Path, wanted: str) -> Path:
    """The folder that `--resume_from_checkpoint` means: the last one of the run, for going on from
    an earlier one would leave two futures in a folder."""
    folders = complete(output)
    if not folders:
        raise StableVITONError(f"{output} has no checkpoint to resume from. Leave the option out.")
    if wanted == "latest":
        return folders[-1]
    folder = next((f for f in folders if f.name == Path(wanted).name), None)
    if folder is None:
        raise StableVITONError(
            f"{wanted} is no checkpoint of {output}. It has {', '.join(f.name for f in folders)}."
        )
    if folder != folders[-1]:
        raise StableVITONError(
            f"{folder.name} is not the last checkpoint of {output}; that is {folders[-1].name}. "
            "Move the later ones away, or give its stableviton.safetensors as --init with another "
            "--output."
        )
    return folder


def begin(accelerator: Accelerator, folder: Path) -> Path:
    """An empty folder to write a checkpoint into, for `finish` to put in its place."""
    partial = folder.with_name(folder.name + PARTIAL)
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    return partial


def finish(accelerator: Accelerator, partial: Path, limit: int, failure: str | None) -> None:
    """Give a complete checkpoint its name, then remove the oldest beyond the limit. failure: what
    went wrong in this process; OSError in all of them where it did in one."""
    failures = [reason for reason in gather_object([failure]) if reason]
    if accelerator.is_main_process:
        if failures:
            shutil.rmtree(partial, ignore_errors=True)
        else:
            folder = partial.with_name(partial.name.removesuffix(PARTIAL))
            if folder.exists():
                _remove(folder)
            partial.replace(folder)
            for old in complete(folder.parent)[:-limit]:
                _remove(old)
    accelerator.wait_for_everyone()
    if failures:
        raise OSError("; ".join(failures))


def _remove(folder: Path) -> None:
    """Renamed first, so that a kill on the way leaves no checkpoint that only looks complete."""
    going = folder.with_name(f"{folder.name}.old{PARTIAL}")
    shutil.rmtree(going, ignore_errors=True)
    folder.replace(going)
    shutil.rmtree(going, ignore_errors=True)


def remove_partial(output: Path) -> None:
    """What a killed run left behind."""
    for partial in output.glob(f"{PREFIX}*{PARTIAL}"):
        shutil.rmtree(partial, ignore_errors=True)
