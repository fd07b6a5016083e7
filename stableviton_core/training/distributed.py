"""What differs between one process, DDP and FSDP: the accelerator, sharded parameters, the training
state."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs, gather_object
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from ..errors import StableVITONError
from ..folder_lock import lock_folder
from .config import TrainConfig

UNSUPPORTED = (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
SHARDED_STATE = "sharded.pt"


def make_accelerator(config: TrainConfig) -> Accelerator:
    """StableVITONError for a kind of distribution or a precision that does not work."""
    accelerator = Accelerator(
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        mixed_precision=config.mixed_precision,
        log_with="tensorboard",
        project_dir=config.output,
        step_scheduler_with_optimizer=False,
        # the other processes wait while one encodes the last latents
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=12))],
    )
    is_fsdp1 = uses_fsdp(accelerator) and not accelerator.is_fsdp2
    if accelerator.distributed_type in UNSUPPORTED or is_fsdp1:
        raise StableVITONError(
            f"accelerate is set to {accelerator.distributed_type.value}"
            f"{', version 1' if is_fsdp1 else ''}, which this trainer does not support. Choose "
            "several processes (DDP), or FSDP version 2, in `accelerate config`."
        )
    if accelerator.num_processes == 1:
        _require_single_process(os.environ)
    if accelerator.device.type == "cpu" and config.mixed_precision == "fp16":
        raise StableVITONError(
            "mixed_precision fp16 needs a GPU, and this run is on a CPU. Take --mixed_precision "
            "bf16, or no."
        )
    return accelerator


def _require_single_process(environment: Mapping[str, str]) -> None:
    """StableVITONError where a launcher was asked for several processes and started one.
    `accelerate launch --cpu --num_processes 2` does so without MPI: it names an address for the
    processes to meet, and gives the only one neither a rank nor a count."""
    count = environment.get("WORLD_SIZE")
    lonely = "MASTER_ADDR" in environment and "ACCELERATE_MIXED_PRECISION" in environment
    if int(count or 1) > 1 or (lonely and count is None):
        raise StableVITONError(
            "The launcher was asked for several processes, but this run is a single one. For "
            "several processes on CPUs use `ACCELERATE_USE_CPU=true accelerate launch --multi_gpu "
            "--num_processes N -m stableviton_core train ...`; for one, --num_processes 1."
        )


@contextmanager
def lock_output(accelerator: Accelerator, output: Path) -> Iterator[None]:
    """Hold the folder of a run, in the first of its processes. StableVITONError in all of them
    where another run holds it."""
    failure = None
    with ExitStack() as stack:
        if accelerator.is_main_process:
            try:
                stack.enter_context(lock_folder(output, "stableviton train"))
            except StableVITONError as error:
                failure = str(error)
        failures = [reason for reason in gather_object([failure]) if reason]
        if failures:
            raise StableVITONError(failures[0])
        yield


def uses_fsdp(accelerator: Accelerator) -> bool:
    return accelerator.distributed_type is DistributedType.FSDP


def any_process(accelerator: Accelerator, value: bool) -> bool:
    """Whether a value is true in any process. All processes take part."""
    if accelerator.num_processes == 1:
        return value
    flag = torch.tensor([value], device=accelerator.device)
    return bool(accelerator.gather(flag).any())


def clip_gradients(
    accelerator: Accelerator, parameters: list[nn.Parameter], max_norm: float
) -> Tensor:
    """Clip gradients to a norm, in place -> the norm before."""
    if not uses_fsdp(accelerator):
        return accelerator.clip_grad_norm_(parameters, max_norm)
    accelerator.unscale_gradients()  # accelerate's own method does it twice beside frozen weights
    norm: Any = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    return norm.full_tensor()


def gather_full_tensors(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sharded parameters put together one by one in main memory; others as they are. All processes
    take part."""
    return {
        name: value.full_tensor().cpu() if isinstance(value, DTensor) else value
        for name, value in parameters.items()
    }


def take_shard(value: Tensor, parameter: Tensor) -> Tensor:
    """The part of a full tensor that this process holds of a parameter, on its device."""
    value = value.to(parameter.device)
    if isinstance(parameter, DTensor):
        return distribute_tensor(value, parameter.device_mesh, parameter.placements)
    return value


@contextmanager
def use_ema_weights(
    ema: EMAModel | None, trained: Mapping[str, nn.Parameter], model: nn.Module
) -> Iterator[None]:
    """The EMA's weights in a model, where there is an EMA."""
    if ema is None:
        yield
        return
    ema.store(trained.values())
    ema.copy_to(trained.values())
    _reshard(model)
    try:
        yield
    finally:
        ema.restore(trained.values())
        _reshard(model)


def _reshard(model: nn.Module) -> None:
    """Drop the full weights that FSDP keeps after a forward pass, so that the next one gathers the
    shards again. Needed after changing weights in place."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def gather_sharded_state(
    accelerator: Accelerator, model: nn.Module, optimizer: Any, schedule: Any
) -> dict[str, Any] | None:
    """Under FSDP the full state of optimizer, schedule and gradient scaler, else None. All
    processes take part. (accelerate would also write the whole model, and fails on parameters
    without a gradient.)"""
    if not uses_fsdp(accelerator):
        return None
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return {
        "optimizer": get_optimizer_state_dict(model, optimizer.optimizer, options=options),
        "schedule": schedule.state_dict(),
        "scaler": accelerator.scaler.state_dict() if accelerator.scaler else {},
    }


def save_state(accelerator: Accelerator, folder: Path, state: dict[str, Any] | None) -> None:
    """Write the training state. state: from `gather_sharded_state`; accelerate's own if None."""
    if state is None:
        accelerator.save_state(str(folder))
    elif accelerator.is_main_process:
        folder.mkdir()
        torch.save(state, folder / SHARDED_STATE)


def load_state(
    accelerator: Accelerator, folder: Path, model: nn.Module, optimizer: Any, schedule: Any
) -> None:
    """StableVITONError where only one of this run and the saved one uses FSDP."""
    if uses_fsdp(accelerator) != (folder / SHARDED_STATE).is_file():
        raise StableVITONError(
            f"{folder} is of a run {'without' if uses_fsdp(accelerator) else 'with'} FSDP. Resume "
            "it in the same way, or start another run, with another --output, from the weights of "
            "its checkpoint."
        )
    if not uses_fsdp(accelerator):
        accelerator.load_state(str(folder))
        return
    state = torch.load(folder / SHARDED_STATE, map_location="cpu", weights_only=True)
    options = StateDictOptions(full_state_dict=True, strict=False)
    set_optimizer_state_dict(model, optimizer.optimizer, state["optimizer"], options=options)
    schedule.load_state_dict(state["schedule"])
    if accelerator.scaler:
        accelerator.scaler.load_state_dict(state["scaler"])
