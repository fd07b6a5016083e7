"""The steps of a training run, from its configuration to its last checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    InitProcessGroupKwargs,
    gather_object,
)
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from tqdm import tqdm

from ..errors import StableVITONError
from . import checkpointing
from .batches import Share, choices, loader
from .config import TrainConfig
from .latents import Latents, encode_samples
from .losses import (
    Draw,
    attention_total_variation,
    correspondence_loss,
    draw,
    model_inputs,
    noise_loss,
    token_grid,
)
from .run import Run, prepared
from .trainable import checkpoint_name
from .validation import save_picture

UNSUPPORTED = (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
SHEET = "validation.png"


def train(config: TrainConfig) -> Path:
    """Run it, and return the last checkpoint's folder.

    UserErrors say what is wrong with the data, the checkpoint, the settings and the run.
    """
    try:
        return _train(config)
    except (OSError, SafetensorError) as error:
        raise StableVITONError(f"The run cannot write: {error}. {_kept(config.output)}") from error


def _train(config: TrainConfig) -> Path:
    accelerator = Accelerator(
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        mixed_precision=config.mixed_precision,
        log_with="tensorboard",
        project_dir=config.output,
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[
            # the spatial encoder's lowest maps serve no zero cross-attention
            DistributedDataParallelKwargs(find_unused_parameters=True),
            InitProcessGroupKwargs(timeout=timedelta(hours=12)),  # encoding is one long wait
        ],
    )
    first_fsdp = accelerator.distributed_type is DistributedType.FSDP and not accelerator.is_fsdp2
    if accelerator.distributed_type in UNSUPPORTED or first_fsdp:
        raise StableVITONError(
            f"accelerate is set to {accelerator.distributed_type.value}"
            f"{', version 1' if first_fsdp else ''}, which this trainer does not support. Choose "
            "several processes (DDP), or FSDP version 2, in `accelerate config`."
        )
    run = prepared(config, accelerator)
    start = _resume(run) if config.resume_from_checkpoint else 0
    share = Share(
        config.train_batch_size,
        config.gradient_accumulation_steps,
        accelerator.num_processes,
        accelerator.process_index,
    )
    batches = iter(
        loader(
            run.dataset,
            choices(config.seed, start, config.max_train_steps, len(run.pairs), share),
            config.dataloader_num_workers,
        )
    )
    folder = checkpointing.folder_of(config.output, start)
    with tqdm(
        total=config.max_train_steps,
        initial=start,
        desc="training",
        unit="step",
        mininterval=1,
        disable=not accelerator.is_main_process,
    ) as bar:
        for step in range(start, config.max_train_steps):
            run.model.train()
            loss = _step(run, batches, share, step)
            _report(run, bar, step, loss, share)
            if _due(step, config.checkpointing_steps, config.max_train_steps):
                folder = _save(run, step + 1)
            if config.validation_steps and _due(
                step, config.validation_steps, config.max_train_steps
            ):
                _validate(run, step + 1)
    accelerator.end_training()
    if accelerator.is_main_process:
        tqdm.write(f"last checkpoint: {folder}")
    return folder


def _resume(run: Run) -> int:
    """Load the last checkpoint; the rates of this configuration hold from here on."""
    folder = checkpointing.resumed_from(run.config.output, run.config.resume_from_checkpoint or "")
    checkpointing.load_parameters(folder / checkpointing.TRAINED, run.trained)
    if run.average:
        checkpointing.load_average(folder / checkpointing.AVERAGE, run.average, run.trained)
    parts = (run.model, run.optimizer, run.schedule)
    checkpointing.load_state(run.accelerator, folder / checkpointing.STATE, *parts)
    run.accelerator.step = 0  # checkpoints are written between steps, not within one
    config, schedule = run.config, run.schedule.scheduler
    schedule.base_lrs = [config.learning_rate]
    for group in run.optimizer.param_groups:
        group["initial_lr"] = config.learning_rate
        group["lr"] = config.learning_rate * schedule.lr_lambdas[0](schedule.last_epoch)
        group["betas"] = (config.adam_beta1, config.adam_beta2)
        group["weight_decay"], group["eps"] = config.adam_weight_decay, config.adam_epsilon
    return checkpointing.step_of(folder)


def _step(run: Run, batches: Iterator, share: Share, step: int) -> float:
    """One step of the optimizer on all of its batches; the mean loss over them and all processes.
    StableVITONError where it is not a number."""
    accelerator, config = run.accelerator, run.config
    losses = []
    for index in range(share.accumulation):
        batch = _latents(run, next(batches))
        shape = (share.joint, *batch.person.shape[1:])
        drawn = draw(
            config.seed, step, shape, config.cond_drop_prob, config.unconditional_draw == "batch"
        )[share.part(index)].to(accelerator.device)
        with accelerator.accumulate(run.network):
            with accelerator.autocast():
                loss = batch_loss(run, batch, drawn)
            mean = accelerator.gather(loss.detach()[None]).mean().item()
            if not np.isfinite(mean):
                _stop(run, share, step, index, f"loss of step {step + 1} is {mean}")
            losses.append(mean)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                norm = _clipped(run)
                if accelerator.scaler is None and not torch.isfinite(norm):  # fp16 skips such steps
                    _stop(run, share, step, index, f"gradient of step {step + 1} is {norm}")
            run.optimizer.step()
            run.optimizer.zero_grad()
    if not accelerator.optimizer_step_was_skipped:
        run.schedule.step()
        if run.average:
            run.average.step(run.trained.values())
    return float(np.mean(losses))


def _clipped(run: Run) -> Tensor:
    """The gradients' norm before they were clipped."""
    accelerator, parameters = run.accelerator, list(run.trained.values())
    if accelerator.distributed_type is not DistributedType.FSDP:
        return accelerator.clip_grad_norm_(parameters, run.config.max_grad_norm)
    accelerator.unscale_gradients()  # accelerate's own way does it twice beside frozen weights
    norm: Any = torch.nn.utils.clip_grad_norm_(parameters, run.config.max_grad_norm)
    return norm.full_tensor()


def batch_loss(run: Run, batch: Latents, drawn: Draw) -> Tensor:
    """The objective of the configured phase, with the correspondences that it is told."""
    config = run.config
    eps = run.network(**model_inputs(batch, drawn))
    loss = noise_loss(eps, drawn, config.loss_weighting == "velocity")

    def grid(block: int) -> tuple[int, int]:
        return token_grid(run.model.config.network, block, *batch.person.shape[2:])

    for block in config.correspondence_blocks:
        assert batch.garment_coordinates is not None
        error = correspondence_loss(run.maps[block], grid(block), batch.garment_coordinates)
        loss = loss + config.correspondence_weight * error
    for block in config.atv_blocks if config.phase == "atv" else ():
        assert batch.warped is not None
        variation = attention_total_variation(run.maps[block], grid(block), batch.warped)
        loss = loss + config.atv_weight * variation
    return loss


def _latents(run: Run, loaded: Latents | list) -> Latents:
    if isinstance(loaded, list):
        return encode_samples(run.autoencoder, run.model, loaded)
    return loaded.to(run.accelerator.device)


def _stop(run: Run, share: Share, step: int, index: int, what: str) -> None:
    own = share.choices(run.config.seed, step, index, len(run.pairs))
    names = gather_object([run.pairs[pair].name for pair, _ in own])
    raise StableVITONError(
        f"The {what}. Its batch: {', '.join(names)}. {_kept(run.config.output)} Look at these "
        f"pictures, or go on with a lower learning rate (now {run.config.learning_rate})."
    )


def _kept(output: Path) -> str:
    folders = checkpointing.complete(output)
    return f"The last good checkpoint is {folders[-1]}." if folders else "No checkpoint yet."


def _report(run: Run, bar: tqdm, step: int, loss: float, share: Share) -> None:
    rate = run.schedule.get_last_lr()[0]
    run.accelerator.log({"loss": loss, "learning_rate": rate}, step=step + 1)
    bar.update()
    speed = bar.format_dict["rate"]
    bar.set_postfix(
        loss=f"{loss:.4f}",
        lr=f"{rate:.1e}",
        samples_per_second="?" if speed is None else f"{speed * share.joint:.1f}",
        refresh=False,
    )


def _due(step: int, every: int, last: int) -> bool:
    return (step + 1) % every == 0 or step + 1 == last


def _save(run: Run, step: int) -> Path:
    """StableVITONError where it cannot be written; what was there before is kept."""
    folder = checkpointing.folder_of(run.config.output, step)
    try:
        partial_folder = checkpointing.begin(run.accelerator, folder)
        failure = _written(run, partial_folder, step)
        checkpointing.finish(
            run.accelerator, partial_folder, run.config.checkpoints_total_limit, failure
        )
    except OSError as error:
        raise StableVITONError(
            f"The checkpoint of step {step} could not be written to {folder}: {error}. "
            f"{_kept(run.config.output)} Make room, then go on with "
            "--resume_from_checkpoint latest."
        ) from error
    return folder


def _written(run: Run, folder: Path, step: int) -> str | None:
    """Write a checkpoint's files; what went wrong, for all processes to hear of it."""
    # what all processes do together comes first: none of them may fail on its own in it
    state = checkpointing.sharded_state(run.accelerator, run.model, run.optimizer, run.schedule)
    trained = checkpointing.whole(run.trained)
    average = None
    if run.average:
        shadows = zip(run.trained, run.average.shadow_params, strict=True)
        average = checkpointing.whole(dict(shadows))
    try:
        checkpointing.save_state(run.accelerator, folder / checkpointing.STATE, state)
        if run.accelerator.is_main_process:
            checkpointing.save_parameters(folder / checkpointing.TRAINED, trained)
            if run.average and average:
                step_of_average = run.average.optimization_step
                checkpointing.save_parameters(
                    folder / checkpointing.AVERAGE, average, step_of_average
                )
            named = {checkpoint_name(name): p for name, p in (average or trained).items()}
            checkpointing.save_weights(
                folder / checkpointing.WEIGHTS,
                checkpointing.with_trained(run.config.init, run.config.vae, named),
                run.model.config,
                run.config.save_dtype,
                run.metadata | {checkpointing.STEP_KEY: str(step)},
            )
    except torch.OutOfMemoryError:
        raise
    except (OSError, SafetensorError, RuntimeError) as error:  # torch tells a full disk by the last
        return str(error)
    return None


def _validate(run: Run, step: int) -> None:
    """All processes take part, for each may hold a part of the weights only."""
    accelerator = run.accelerator
    if run.validation is None:
        return
    run.autoencoder.to(accelerator.device)
    run.model.eval()
    with averaged(run), accelerator.autocast():
        picture = run.validation.sheet(run.model, run.autoencoder, run.config.num_inference_steps)
    if run.config.cache_latents:
        run.autoencoder.to("cpu")
    if accelerator.is_main_process:
        save_picture(run.config.output / SHEET, picture)
        writer = accelerator.get_tracker("tensorboard", unwrap=True)
        writer.add_image("validation", picture, step, dataformats="HWC")


@contextmanager
def averaged(run: Run) -> Iterator[None]:
    """The model with its averaged weights, where there is an average."""
    if run.average is None:
        yield
        return
    run.average.store(run.trained.values())
    run.average.copy_to(run.trained.values())
    _reshard(run)
    try:
        yield
    finally:
        run.average.restore(run.trained.values())
        _reshard(run)


def _reshard(run: Run) -> None:
    """FSDP keeps whole weights after a forward pass; without this the next would use old ones."""
    for module in run.model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
