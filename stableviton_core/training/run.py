"""What a training run consists of, put together and checked before its first step."""

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.scheduler import AcceleratedScheduler
from accelerate.utils import DistributedType
from diffusers import AutoencoderKL
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from ..errors import StableVITONError
from ..model.checkpoint import LICENSE_KEY
from ..model.layers import ResBlock, SpatialTransformer
from . import checkpointing
from .batches import Cached, Pictures, cache_keys, fill_cache
from .check_data import raise_missing
from .config import TrainConfig
from .dataset import Pair, read_pairs
from .latent_cache import LatentCache, hashed
from .losses import record_attention
from .model import TryOnModel
from .trainable import INPUT_CONVOLUTION, choose_trainable, described
from .validation import Validation

FROZEN_TYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class Run:
    """What the steps of a run share. network: the model as accelerate wraps it. maps: attention
    maps of the last forward pass, by block, of those that the objective looks at."""

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


def prepared(config: TrainConfig, accelerator: Accelerator) -> Run:
    """Everything is checked before the pictures are encoded, which can take hours."""
    if not config.resume_from_checkpoint and checkpointing.complete(config.output):
        raise StableVITONError(
            f"{config.output} holds checkpoints of another run. Go on from them with "
            "--resume_from_checkpoint latest, or name another --output."
        )
    pairs = read_pairs(config.data, "train", paired=True)
    shown = _validation_pairs(config)
    raise_missing([*pairs, *shown])
    blocks = set(config.correspondence_blocks)
    if blocks:
        _check_known("garment_coordinates", "gt_cloth_coordinates", "correspondence_blocks", pairs)
    if config.phase == "atv":
        blocks |= set(config.atv_blocks)
        _check_known("warped", "gt_cloth_warped_mask", "phase atv", pairs)
    model, autoencoder, license = checkpointing.load_model(config.init, config.vae)
    extra = (INPUT_CONVOLUTION,) if config.train_input_conv else ()
    counts = choose_trainable(model, config.train_patterns + extra, config.freeze_patterns)
    maps = record_attention(model.network.zero_cross_attention, sorted(blocks))
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
        eps=config.adam_epsilon,
    )
    schedule = _schedule(config, optimizer)
    if accelerator.is_main_process:
        config.output.mkdir(parents=True, exist_ok=True)
        checkpointing.remove_partial(config.output)
        tqdm.write(described(counts))
    autoencoder.requires_grad_(False)
    for part in (model, autoencoder):
        part.to(accelerator.device)
        for parameter in part.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(FROZEN_TYPES[config.mixed_precision])
    dataset = _dataset(config, accelerator, pairs, model, autoencoder)
    validation = None
    if shown:
        validation = Validation(shown, config.height, config.width, model, autoencoder)
    if config.cache_latents:
        autoencoder.to("cpu")
    if config.gradient_checkpointing:
        recompute_activations(model)
    if config.torch_compile:
        model.network.compile()
    network, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
    if accelerator.distributed_type is DistributedType.FSDP:
        register_fsdp_forward_method(model, "embedding")  # it is called from outside, too
    # where they are sharded, each process has other parameters now
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    average = (
        EMAModel(trained.values(), decay=config.ema_decay, use_ema_warmup=True, power=0.8)
        if config.use_ema
        else None
    )
    # accelerate's state holds no weights: the trained ones lie beside it, the others are in init
    accelerator.register_save_state_pre_hook(lambda models, weights, folder: weights.clear())
    accelerator.register_load_state_pre_hook(lambda models, folder: models.clear())
    accelerator.init_trackers("logs")
    metadata = {
        LICENSE_KEY: license,
        "stableviton.training": json.dumps(asdict(config), default=_name),
        "stableviton.data": hashed(
            *(f"{path.name} {path.stat().st_size}" for pair in pairs for _, path in pair.files())
        ),
    }
    return Run(
        config,
        accelerator,
        pairs,
        dataset,
        model,
        network,
        autoencoder,
        trained,
        optimizer,
        schedule,
        average,
        validation,
        metadata,
        maps,
    )


def _name(path: Path) -> str:
    """Files are shared, and where they lay on a machine is nobody's business."""
    return path.name


def _schedule(config: TrainConfig, optimizer: torch.optim.Optimizer) -> LambdaLR:
    try:
        return get_scheduler(
            config.lr_scheduler,
            optimizer,
            num_warmup_steps=config.lr_warmup_steps,
            num_training_steps=config.max_train_steps,
        )
    except ValueError as error:
        raise StableVITONError(f"lr_scheduler {config.lr_scheduler!r}: {error}") from error


def _check_known(kind: str, folder: str, setting: str, pairs: list[Pair]) -> None:
    lacking = [pair.name for pair in pairs if getattr(pair, kind) is None]
    if lacking:
        raise StableVITONError(
            f"{setting} needs a picture of every training pair in the folder {folder}; "
            f"{len(lacking)} have none, such as {lacking[0]}."
        )


def _validation_pairs(config: TrainConfig) -> list[Pair]:
    if not config.validation_steps:
        return []
    pairs = read_pairs(config.data, "test", paired=False, pair_file=config.validation_pairs)
    return pairs[: config.num_validation_images]


def _dataset(
    config: TrainConfig,
    accelerator: Accelerator,
    pairs: list[Pair],
    model: TryOnModel,
    autoencoder: AutoencoderKL,
) -> Cached | Pictures:
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
