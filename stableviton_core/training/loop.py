"""A training run, from its configuration to its last checkpoint."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from diffusers import AutoencoderKL
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from ..layers import ResBlock, SpatialTransformer
from . import saving
from .batches import Cached, Pictures, Share, cache_keys, choices, chosen, fill_cache, loader
from .cache import LatentCache, hashed
from .check import raise_missing
from .config import TrainConfig
from .data import Pair, read_pairs
from .latents import Latents, encode_samples
from .model import TryOnModel
from .objective import (
    Draw,
    attention_total_variation,
    draw,
    model_inputs,
    noise_loss,
    record_attention,
    token_grid,
)
from .sample import Validation, save_picture
from .saving import TrainingError
from .trainable import INPUT_CONVOLUTION, choose_trainable, described

FROZEN_TYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SHEET = "validation.png"


def train(config: TrainConfig) -> Path:
    """Run it, and return the last checkpoint's folder.

    DataError, CheckpointError, PatternError and TrainingError say what is wrong with the data, the
    checkpoint, the chosen parameters and the run.
    """
    accelerator = Accelerator(
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        mixed_precision=config.mixed_precision,
        log_with="tensorboard",
        project_dir=config.output,
        step_scheduler_with_optimizer=False,
        # the spatial encoder's lowest maps serve no zero cross-attention
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    run = _prepared(config, accelerator)
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
    folder = saving.folder_of(config.output, start)
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
            if run.validation and _due(step, config.validation_steps, config.max_train_steps):
                _validate(run, step + 1)
    accelerator.end_training()
    return folder


@dataclass
class Run:
    """What the steps of a run share. network: the model as accelerate wraps it. maps: attention
    maps of the last forward pass, by block, in phase atv."""

    config: TrainConfig
    accelerator: Accelerator
    pairs: list[Pair]
    dataset: Cached | Pictures
    model: TryOnModel
    network: nn.Module
    autoencoder: AutoencoderKL
    names: list[str]
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    average: EMAModel | None
    validation: Validation | None
    metadata: dict[str, str]
    maps: dict[int, Tensor]


def _prepared(config: TrainConfig, accelerator: Accelerator) -> Run:
    if not config.resume_from_checkpoint and saving.complete(config.output):
        raise TrainingError(
            f"{config.output} holds checkpoints of another run. Go on from them with "
            "--resume_from_checkpoint latest, or name another --output."
        )
    pairs = read_pairs(config.data, "train", paired=True)
    raise_missing(pairs)
    model, autoencoder, licence = saving.load_model(config.init, config.vae)
    extra = (INPUT_CONVOLUTION,) if config.train_input_conv else ()
    counts = choose_trainable(model, config.train_patterns + extra, config.freeze_patterns)
    if accelerator.is_main_process:
        config.output.mkdir(parents=True, exist_ok=True)
        saving.remove_partial(config.output)
        tqdm.write(described(counts))
    autoencoder.requires_grad_(False)
    for part in (model, autoencoder):
        part.to(accelerator.device)
        for parameter in part.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(FROZEN_TYPES[config.mixed_precision])
    dataset = _dataset(config, accelerator, pairs, model, autoencoder)
    validation = _validation(config, model, autoencoder) if config.validation_steps else None
    if config.cache_latents:
        autoencoder.to("cpu")
    maps = record_attention(model.network.warp, config.atv_blocks) if config.phase == "atv" else {}
    if config.gradient_checkpointing:
        recompute_activations(model)
    if config.torch_compile:
        model.network.compile()
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    names, parameters = [n for n, _ in trained], [p for _, p in trained]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
        eps=config.adam_epsilon,
    )
    schedule = get_scheduler(
        config.lr_scheduler,
        optimizer,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=config.max_train_steps,
    )
    average = (
        EMAModel(parameters, decay=config.ema_decay, use_ema_warmup=True, power=0.8)
        if config.use_ema
        else None
    )
    network, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
    accelerator.init_trackers("logs")
    metadata = {
        saving.LICENCE_KEY: licence,
        "stableviton.training": json.dumps(asdict(config), default=str),
        "stableviton.data": hashed(
            *(f"{path.name} {path.stat().st_size}" for pair in pairs for _, path in pair.files())
        ),
    }
    return Run(
        config, accelerator, pairs, dataset, model, network, autoencoder, names, parameters,
        optimizer, schedule, average, validation, metadata, maps,
    )  # fmt: skip


def _dataset(
    config: TrainConfig, accelerator: Accelerator, pairs: list[Pair], model: TryOnModel,
    autoencoder: AutoencoderKL,
) -> Cached | Pictures:  # fmt: skip
    if not config.cache_latents:
        return Pictures(pairs, config)
    cache = LatentCache(config.cache_dir or config.output / "latents")
    keys = cache_keys(pairs, config, model, autoencoder)
    fill_cache(cache, keys, pairs, config, model, autoencoder, accelerator)
    return Cached(cache, keys)


def _validation(config: TrainConfig, model: TryOnModel, autoencoder: AutoencoderKL) -> Validation:
    pairs = read_pairs(config.data, "test", paired=False, pair_file=config.validation_pairs)
    pairs = pairs[: config.num_validation_images]
    raise_missing(pairs)
    return Validation(pairs, config.height, config.width, model, autoencoder)


def recompute_activations(model: nn.Module) -> None:
    """Gradient checkpointing of every block: keep its input, run it again in the backward pass."""
    for module in model.modules():
        if isinstance(module, ResBlock | SpatialTransformer):
            block: Any = module
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def _resume(run: Run) -> int:
    folder = saving.resumed_from(run.config.output, run.config.resume_from_checkpoint or "")
    run.accelerator.load_state(folder / saving.STATE)
    if run.average:
        saving.load_average(folder / saving.AVERAGE, run.average, run.names)
    return saving.step_of(folder)


def _step(run: Run, batches: Iterator, share: Share, step: int) -> float:
    """One step of the optimizer on all of its batches; the mean loss over them and all processes.
    TrainingError where it is not a number."""
    accelerator, config = run.accelerator, run.config
    losses = []
    for index in range(share.accumulation):
        batch = _latents(run, next(batches))
        shape = (share.joint, *batch.person.shape[1:])
        drawn = draw(
            config.seed,
            step,
            shape,
            config.unconditional_probability,
            config.unconditional_draw == "batch",
        )[share.part(index)].to(accelerator.device)
        with accelerator.accumulate(run.network):
            with accelerator.autocast():
                loss = batch_loss(run, batch, drawn)
            mean = accelerator.gather(loss.detach()[None]).mean().item()
            if not np.isfinite(mean):
                _stop_for_loss(run, share, step, index, mean)
            losses.append(mean)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(run.parameters, config.max_grad_norm)
            run.optimizer.step()
            run.optimizer.zero_grad()
    if not accelerator.optimizer_step_was_skipped:
        run.schedule.step()
        if run.average:
            run.average.step(run.parameters)
    return float(np.mean(losses))


def batch_loss(run: Run, batch: Latents, drawn: Draw) -> Tensor:
    """The objective of the configured phase."""
    config = run.config
    eps = run.network(**model_inputs(batch, drawn))
    loss = noise_loss(eps, drawn, config.loss_weighting == "velocity")
    if config.phase == "base":
        return loss
    if batch.warped is None:
        raise TrainingError(
            "Phase atv needs the worn garment's mask of every training pair, in the folder "
            "gt_cloth_warped_mask."
        )
    height, width = batch.person.shape[2:]
    for block in config.atv_blocks:
        grid = token_grid(run.model.config.network, block, height, width)
        variation = attention_total_variation(run.maps[block], grid, batch.warped)
        loss = loss + config.atv_weight * variation
    return loss


def _latents(run: Run, loaded: Latents | list) -> Latents:
    if isinstance(loaded, list):
        return encode_samples(run.autoencoder, run.model, loaded)
    return loaded.to(run.accelerator.device)


def _stop_for_loss(run: Run, share: Share, step: int, index: int, loss: float) -> None:
    rows = range(share.joint)[share.part(index)]
    names = gather_object(
        [
            run.pairs[chosen(run.config.seed, step * share.joint + row, len(run.pairs))[0]].name
            for row in rows
        ]
    )
    raise TrainingError(
        f"The loss of step {step + 1} is {loss}. Its batch: {', '.join(names)}. "
        f"{_kept(run.config.output)} Look at these pictures, or lower the learning rate "
        f"({run.config.learning_rate})."
    )


def _kept(output: Path) -> str:
    folders = saving.complete(output)
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
    """TrainingError where it cannot be written; what was there before is kept."""
    folder = saving.folder_of(run.config.output, step)
    try:
        partial_folder = saving.begin(run.accelerator, folder)
        run.accelerator.save_state(str(partial_folder / saving.STATE))
        with averaged(run):
            if run.accelerator.is_main_process:
                saving.save_weights(
                    partial_folder / saving.WEIGHTS,
                    run.model,
                    run.autoencoder,
                    run.model.config,
                    run.config.save_dtype,
                    run.metadata | {saving.STEP_KEY: str(step)},
                )
        if run.average and run.accelerator.is_main_process:
            saving.save_average(partial_folder / saving.AVERAGE, run.average, run.names)
        saving.finish(run.accelerator, partial_folder, run.config.checkpoints_total_limit)
    except saving.WRITE_ERRORS as error:
        saving.remove_partial(run.config.output)
        raise TrainingError(
            f"The checkpoint of step {step} could not be written to {folder}: {error}. "
            f"{_kept(run.config.output)} Make room, then go on with "
            "--resume_from_checkpoint latest."
        ) from error
    return folder


def _validate(run: Run, step: int) -> None:
    accelerator = run.accelerator
    if not accelerator.is_main_process or run.validation is None:
        return
    run.autoencoder.to(accelerator.device)
    run.model.eval()
    with averaged(run), accelerator.autocast():
        picture = run.validation.sheet(run.model, run.autoencoder, run.config.num_inference_steps)
    if run.config.cache_latents:
        run.autoencoder.to("cpu")
    save_picture(run.config.output / SHEET, picture)
    writer = accelerator.get_tracker("tensorboard", unwrap=True)
    writer.add_image("validation", picture, step, dataformats="HWC")


@contextmanager
def averaged(run: Run) -> Iterator[None]:
    """The model with its averaged weights, where there is an average."""
    if run.average is None:
        yield
        return
    run.average.store(run.parameters)
    run.average.copy_to(run.parameters)
    try:
        yield
    finally:
        run.average.restore(run.parameters)
