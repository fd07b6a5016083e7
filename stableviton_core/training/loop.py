"""A training run, from its configuration to its last checkpoint."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.scheduler import AcceleratedScheduler
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    InitProcessGroupKwargs,
    gather_object,
)
from diffusers import AutoencoderKL
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from ..files import LICENCE_KEY
from ..layers import ResBlock, SpatialTransformer
from . import saving
from .batches import Cached, Pictures, Share, cache_keys, choices, chosen, fill_cache, loader
from .cache import LatentCache, hashed
from .check import raise_missing
from .config import TrainConfig
from .data import DataError, Pair, read_pairs
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
from .trainable import INPUT_CONVOLUTION, checkpoint_name, choose_trainable, described

FROZEN_TYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
UNSUPPORTED = (  # they shard or wrap the weights in their own ways
    DistributedType.FSDP,
    DistributedType.DEEPSPEED,
    DistributedType.MEGATRON_LM,
)
SHEET = "validation.png"


def train(config: TrainConfig) -> Path:
    """Run it, and return the last checkpoint's folder.

    UserErrors say what is wrong with the data, the checkpoint, the settings and the run.
    """
    try:
        return _train(config)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"The run cannot write: {error}. {_kept(config.output)}") from error


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
    if accelerator.distributed_type in UNSUPPORTED:
        raise TrainingError(
            f"accelerate is set to {accelerator.distributed_type.value}, which this trainer does "
            "not support. Choose several processes (DDP) in `accelerate config`."
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
            if config.validation_steps and _due(
                step, config.validation_steps, config.max_train_steps
            ):
                _validate(run, step + 1)
    accelerator.end_training()
    if accelerator.is_main_process:
        tqdm.write(f"last checkpoint: {folder}")
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
    trained: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    schedule: AcceleratedScheduler
    average: EMAModel | None
    validation: Validation | None
    metadata: dict[str, str]
    maps: dict[int, Tensor]


def _prepared(config: TrainConfig, accelerator: Accelerator) -> Run:
    """Everything is checked before the pictures are encoded, which can take hours."""
    if not config.resume_from_checkpoint and saving.complete(config.output):
        raise TrainingError(
            f"{config.output} holds checkpoints of another run. Go on from them with "
            "--resume_from_checkpoint latest, or name another --output."
        )
    pairs = read_pairs(config.data, "train", paired=True)
    shown = _validation_pairs(config)
    raise_missing([*pairs, *shown])
    if config.phase == "atv":
        _check_worn_masks(pairs)
    model, autoencoder, licence = saving.load_model(config.init, config.vae)
    extra = (INPUT_CONVOLUTION,) if config.train_input_conv else ()
    counts = choose_trainable(model, config.train_patterns + extra, config.freeze_patterns)
    maps = record_attention(model.network.warp, config.atv_blocks if config.phase == "atv" else ())
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    parameters = list(trained.values())
    optimizer = torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
        eps=config.adam_epsilon,
    )
    schedule = _schedule(config, optimizer)
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
    validation = None
    if shown and accelerator.is_main_process:
        validation = Validation(shown, config.height, config.width, model, autoencoder)
    if config.cache_latents:
        autoencoder.to("cpu")
    if config.gradient_checkpointing:
        recompute_activations(model)
    if config.torch_compile:
        model.network.compile()
    average = (
        EMAModel(parameters, decay=config.ema_decay, use_ema_warmup=True, power=0.8)
        if config.use_ema
        else None
    )
    network, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
    # accelerate's state holds no weights: the trained ones lie beside it, the others are in init
    accelerator.register_save_state_pre_hook(lambda models, weights, folder: weights.clear())
    accelerator.register_load_state_pre_hook(lambda models, folder: models.clear())
    accelerator.init_trackers("logs")
    metadata = {
        LICENCE_KEY: licence,
        "stableviton.training": json.dumps(asdict(config), default=str),
        "stableviton.data": hashed(
            *(f"{path.name} {path.stat().st_size}" for pair in pairs for _, path in pair.files())
        ),
    }
    return Run(
        config, accelerator, pairs, dataset, model, network, autoencoder, trained, optimizer,
        schedule, average, validation, metadata, maps,
    )  # fmt: skip


def _schedule(config: TrainConfig, optimizer: torch.optim.Optimizer) -> LambdaLR:
    try:
        return get_scheduler(
            config.lr_scheduler,
            optimizer,
            num_warmup_steps=config.lr_warmup_steps,
            num_training_steps=config.max_train_steps,
        )
    except ValueError as error:
        raise TrainingError(f"lr_scheduler {config.lr_scheduler!r}: {error}") from error


def _check_worn_masks(pairs: list[Pair]) -> None:
    lacking = [pair.name for pair in pairs if pair.warped is None]
    if lacking:
        raise DataError(
            f"Phase atv needs the worn garment's mask of every training pair, in the folder "
            f"gt_cloth_warped_mask; {len(lacking)} have none, such as {lacking[0]}."
        )


def _validation_pairs(config: TrainConfig) -> list[Pair]:
    if not config.validation_steps:
        return []
    pairs = read_pairs(config.data, "test", paired=False, pair_file=config.validation_pairs)
    return pairs[: config.num_validation_images]


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


def recompute_activations(model: nn.Module) -> None:
    """Gradient checkpointing of every block: keep its input, run it again in the backward pass."""
    for module in model.modules():
        if isinstance(module, ResBlock | SpatialTransformer):
            block: Any = module
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def _resume(run: Run) -> int:
    """Load the last checkpoint; the rates of this configuration hold from here on."""
    folder = saving.resumed_from(run.config.output, run.config.resume_from_checkpoint or "")
    saving.load_parameters(folder / saving.TRAINED, run.trained)
    if run.average:
        saving.load_average(folder / saving.AVERAGE, run.average, run.trained)
    run.accelerator.load_state(str(folder / saving.STATE))
    run.accelerator.step = 0  # checkpoints are written between steps, not within one
    config, schedule = run.config, run.schedule.scheduler
    schedule.base_lrs = [config.learning_rate]
    for group in run.optimizer.param_groups:
        group["initial_lr"] = config.learning_rate
        group["lr"] = config.learning_rate * schedule.lr_lambdas[0](schedule.last_epoch)
        group["betas"] = (config.adam_beta1, config.adam_beta2)
        group["weight_decay"], group["eps"] = config.adam_weight_decay, config.adam_epsilon
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
                _stop(run, share, step, index, f"loss of step {step + 1} is {mean}")
            losses.append(mean)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(list(run.trained.values()), config.max_grad_norm)
                if accelerator.scaler is None and not torch.isfinite(norm):  # fp16 skips such steps
                    _stop(run, share, step, index, f"gradient of step {step + 1} is {norm}")
            run.optimizer.step()
            run.optimizer.zero_grad()
    if not accelerator.optimizer_step_was_skipped:
        run.schedule.step()
        if run.average:
            run.average.step(run.trained.values())
    return float(np.mean(losses))


def batch_loss(run: Run, batch: Latents, drawn: Draw) -> Tensor:
    """The objective of the configured phase."""
    config = run.config
    eps = run.network(**model_inputs(batch, drawn))
    loss = noise_loss(eps, drawn, config.loss_weighting == "velocity")
    if config.phase == "base":
        return loss
    assert batch.warped is not None
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


def _stop(run: Run, share: Share, step: int, index: int, what: str) -> None:
    rows = range(share.joint)[share.part(index)]
    names = gather_object(
        [
            run.pairs[chosen(run.config.seed, step * share.joint + row, len(run.pairs))[0]].name
            for row in rows
        ]
    )
    raise TrainingError(
        f"The {what}. Its batch: {', '.join(names)}. {_kept(run.config.output)} Look at these "
        f"pictures, or go on with a lower learning rate (now {run.config.learning_rate})."
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
        failure = _written(run, partial_folder, step)
        saving.finish(run.accelerator, partial_folder, run.config.checkpoints_total_limit, failure)
    except OSError as error:
        raise TrainingError(
            f"The checkpoint of step {step} could not be written to {folder}: {error}. "
            f"{_kept(run.config.output)} Make room, then go on with "
            "--resume_from_checkpoint latest."
        ) from error
    return folder


def _written(run: Run, folder: Path, step: int) -> str | None:
    """Write a checkpoint's files; what went wrong, for all processes to hear of it."""
    try:
        run.accelerator.save_state(str(folder / saving.STATE))
        if run.accelerator.is_main_process:
            saving.save_parameters(folder / saving.TRAINED, run.trained)
            if run.average:
                average = dict(zip(run.trained, run.average.shadow_params, strict=True))
                saving.save_parameters(
                    folder / saving.AVERAGE, average, run.average.optimization_step
                )
            with averaged(run):
                trained = {checkpoint_name(name): p for name, p in run.trained.items()}
                saving.save_weights(
                    folder / saving.WEIGHTS,
                    saving.with_trained(run.config.init, run.config.vae, trained),
                    run.model.config,
                    run.config.save_dtype,
                    run.metadata | {saving.STEP_KEY: str(step)},
                )
    except torch.OutOfMemoryError:
        raise
    except (OSError, SafetensorError, RuntimeError) as error:  # torch tells a full disk by the last
        return str(error)
    return None


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
    run.average.store(run.trained.values())
    run.average.copy_to(run.trained.values())
    try:
        yield
    finally:
        run.average.restore(run.trained.values())
