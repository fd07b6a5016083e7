"""Training: from a configuration to the last checkpoint."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate.utils import gather_object
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..dataset.check_data import require_files
from ..dataset.pairs import Pair, read_pairs
from ..errors import StableVITONError
from ..images import write_image
from ..inference.encoding import Latents, encode_samples
from ..model.attention_recorder import AttentionRecorder
from ..model.checkpoint import LICENSE_KEY
from ..model.layers import enable_gradient_checkpointing
from ..model.pretrained import load_model, save_weights
from .augmentation import AugmentedDataset
from .checkpointing import (
    EMA,
    STATE,
    STEP_KEY,
    TRAINED,
    WEIGHTS,
    checkpoint_folder,
    describe_last_checkpoint,
    find_checkpoint,
    list_checkpoints,
    load_ema,
    load_parameters,
    merge_trained,
    parse_step,
    prepare_output,
    save_parameters,
    write_checkpoint,
)
from .config import TrainConfig
from .distributed import (
    clip_gradients,
    gather_full_tensors,
    gather_sharded_state,
    load_state,
    make_accelerator,
    save_state,
    use_ema_weights,
    uses_fsdp,
)
from .distributed_sampler import DistributedStepSampler, iterate_batches
from .latent_cache import LatentCache, LatentDataset, compute_cache_keys, compute_hash, fill_cache
from .losses import (
    compute_loss,
    list_recorded_blocks,
    make_model_inputs,
    require_annotations,
    sample_timesteps_and_noise,
)
from .trainable_parameters import INPUT_CONVOLUTION, choose_trainable, format_counts
from .validation import ValidationSet

FROZEN_DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
VALIDATION_IMAGE = "validation.png"


def train(config: TrainConfig) -> Path:
    """Train, and return the folder of the last checkpoint.

    StableVITONError says what is wrong with the data, the checkpoint, the settings or the disk.
    """
    try:
        trainer = Trainer(config)
        if config.resume_from_checkpoint:
            trainer.resume()
        return trainer.train()
    except (OSError, SafetensorError) as error:
        raise StableVITONError(
            f"The run cannot write: {error}. {describe_last_checkpoint(config.output)}"
        ) from error


class Trainer:
    """A training run, as one process or as one of several (DDP, FSDP 2).

    step: optimizer steps done. model: the TryOnModel; wrapped_model: the same as accelerate wraps
    it, for the forward passes of training. trained: the trained parameters by name, under FSDP this
    process's shards.
    """

    def __init__(self, config: TrainConfig):
        self.config = config
        self.step = 0
        self.accelerator = make_accelerator(config)
        self.sampler = DistributedStepSampler(
            config.train_batch_size,
            config.gradient_accumulation_steps,
            self.accelerator.num_processes,
            self.accelerator.process_index,
        )
        # whatever can be wrong is found before images are encoded, which can take hours
        self._read_data()
        self._load_model()
        self._make_optimizer()
        self._make_datasets()
        self._wrap()

    def _read_data(self) -> None:
        config = self.config
        if not config.resume_from_checkpoint and list_checkpoints(config.output):
            raise StableVITONError(
                f"{config.output} holds checkpoints of another run. Go on from them with "
                "--resume_from_checkpoint latest, or name another --output."
            )
        self.pairs = read_pairs(config.data, "train", paired=True)
        self.validation_pairs: list[Pair] = []
        if config.validation_steps:
            pairs = read_pairs(config.data, "test", paired=False, pair_file=config.validation_pairs)
            self.validation_pairs = pairs[: config.num_validation_images]
        require_files([*self.pairs, *self.validation_pairs])
        require_annotations(config, self.pairs)

    def _load_model(self) -> None:
        config = self.config
        self.model, self.autoencoder, license = load_model(config.init, config.vae)
        self.autoencoder.requires_grad_(False)
        patterns = config.train_patterns + (INPUT_CONVOLUTION,) * config.train_input_conv
        counts = choose_trainable(self.model, patterns, config.freeze_patterns)
        if self.accelerator.is_main_process:
            tqdm.write(format_counts(counts))
        self.attention = AttentionRecorder(
            self.model.network.zero_cross_attention, list_recorded_blocks(config)
        )
        files = (path for pair in self.pairs for _, path in pair.files())
        self.metadata = {
            LICENSE_KEY: license,
            # paths without their folders: checkpoints are shared
            "stableviton.training": json.dumps(asdict(config), default=lambda path: path.name),
            "stableviton.data": compute_hash(*(f"{f.name} {f.stat().st_size}" for f in files)),
        }

    def _make_optimizer(self) -> None:
        config = self.config
        self.optimizer = torch.optim.AdamW(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            weight_decay=config.adam_weight_decay,
            eps=config.adam_epsilon,
        )
        try:
            self.lr_scheduler = get_scheduler(
                config.lr_scheduler,
                self.optimizer,
                num_warmup_steps=config.lr_warmup_steps,
                num_training_steps=config.max_train_steps,
            )
        except ValueError as error:
            raise StableVITONError(f"lr_scheduler {config.lr_scheduler!r}: {error}") from error

    def _make_datasets(self) -> None:
        """Encodes the images, unless latents are not cached."""
        config, accelerator = self.config, self.accelerator
        model, autoencoder = self.model, self.autoencoder
        if accelerator.is_main_process:
            prepare_output(config.output)
        for module in (model, autoencoder):
            module.to(accelerator.device)
            for parameter in module.parameters():
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(FROZEN_DTYPES[config.mixed_precision])
        self.dataset: LatentDataset | AugmentedDataset
        if config.cache_latents:
            cache = LatentCache(config.cache_dir or config.output / "latents")
            keys = compute_cache_keys(self.pairs, config, model, autoencoder)
            fill_cache(cache, keys, self.pairs, config, model, autoencoder, accelerator)
            self.dataset = LatentDataset(cache, keys)
        else:
            self.dataset = AugmentedDataset(self.pairs, config)
        self.validation: ValidationSet | None = None
        if self.validation_pairs:
            self.validation = ValidationSet(
                self.validation_pairs, config.height, config.width, model, autoencoder
            )
        if config.cache_latents:
            autoencoder.to("cpu")

    def _wrap(self) -> None:
        """Hand model, optimizer and schedule to accelerate."""
        config, accelerator, model = self.config, self.accelerator, self.model
        if config.gradient_checkpointing:
            enable_gradient_checkpointing(model)
        if config.torch_compile:
            model.network.compile()
        self.wrapped_model, self.optimizer, self.lr_scheduler = accelerator.prepare(
            model, self.optimizer, self.lr_scheduler
        )
        if uses_fsdp(accelerator):
            register_fsdp_forward_method(model, "embed_garment")  # is called from outside, too
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.ema: EMAModel | None = None
        if config.use_ema:
            self.ema = EMAModel(
                self.trained.values(), decay=config.ema_decay, use_ema_warmup=True, power=0.8
            )
        # the state holds no weights: trained ones lie beside it, frozen ones are in config.init
        accelerator.register_save_state_pre_hook(lambda models, weights, folder: weights.clear())
        accelerator.register_load_state_pre_hook(lambda models, folder: models.clear())
        accelerator.init_trackers("logs")

    def resume(self) -> None:
        """Load the last checkpoint. Rates of this configuration replace the saved ones."""
        config = self.config
        folder = find_checkpoint(config.output, config.resume_from_checkpoint or "latest")
        load_parameters(folder / TRAINED, self.trained)
        if self.ema:
            load_ema(folder / EMA, self.ema, self.trained)
        load_state(self.accelerator, folder / STATE, self.model, self.optimizer, self.lr_scheduler)
        self.accelerator.step = 0  # of gradient accumulation; checkpoints lie between its cycles
        schedule = self.lr_scheduler.scheduler
        schedule.base_lrs = [config.learning_rate]
        for group in self.optimizer.param_groups:
            group["initial_lr"] = config.learning_rate
            group["lr"] = config.learning_rate * schedule.lr_lambdas[0](schedule.last_epoch)
            group["betas"] = (config.adam_beta1, config.adam_beta2)
            group["weight_decay"], group["eps"] = config.adam_weight_decay, config.adam_epsilon
        self.step = parse_step(folder)

    def train(self) -> Path:
        """All remaining steps -> the folder of the last checkpoint."""
        config, is_main = self.config, self.accelerator.is_main_process
        indices = iterate_batches(
            config.seed, self.step, config.max_train_steps, len(self.pairs), self.sampler
        )
        batches = iter(
            DataLoader(
                self.dataset,
                batch_sampler=indices,
                collate_fn=self.dataset.collate,
                num_workers=config.dataloader_num_workers,
            )
        )
        folder = checkpoint_folder(config.output, self.step)
        with tqdm(
            total=config.max_train_steps,
            initial=self.step,
            desc="training",
            unit="step",
            mininterval=1,
            disable=not is_main,
        ) as bar:
            while self.step < config.max_train_steps:
                self._report(bar, self.train_step(batches))
                if self._is_due(config.checkpointing_steps):
                    folder = self.save_checkpoint()
                if self.validation and self._is_due(config.validation_steps):
                    self.validate(self.validation)
        self.accelerator.end_training()
        if is_main:
            tqdm.write(f"last checkpoint: {folder}")
        return folder

    def _is_due(self, interval: int) -> bool:
        return self.step % interval == 0 or self.step == self.config.max_train_steps

    def train_step(self, batches: Iterator) -> dict[str, float]:
        """One optimizer step, over all accumulation steps -> the terms of the loss by name, means
        over them and over all processes. StableVITONError where loss or gradient is not finite."""
        config, accelerator = self.config, self.accelerator
        network, maps = self.model.config.network, self.attention.maps
        self.model.train()
        means = []
        for index in range(self.sampler.accumulation_steps):
            batch = self._encode(next(batches))
            sampled = sample_timesteps_and_noise(
                config.seed,
                self.step,
                (self.sampler.joint_batch_size, *batch.person.shape[1:]),
                config.cond_drop_prob,
                config.cond_drop_per,
            )[self.sampler.slice_of(index)].to(accelerator.device)
            with accelerator.accumulate(self.wrapped_model):
                with accelerator.autocast():
                    noise_prediction = self.wrapped_model(**make_model_inputs(batch, sampled))
                    terms = compute_loss(config, network, noise_prediction, batch, sampled, maps)
                values = torch.stack(list(terms.values()))
                means.append(accelerator.gather(values.detach()[None]).mean(dim=0))
                self._require_finite("loss", means[-1].sum(), index)
                accelerator.backward(values.sum())
                if accelerator.sync_gradients:
                    norm = clip_gradients(
                        accelerator, list(self.trained.values()), config.max_grad_norm
                    )
                    if accelerator.scaler is None:  # fp16 skips such steps
                        self._require_finite("gradient", norm, index)
                self.optimizer.step()
                self.optimizer.zero_grad()
        if not accelerator.optimizer_step_was_skipped:
            self.lr_scheduler.step()
            if self.ema:
                self.ema.step(self.trained.values())
        self.step += 1
        return dict(zip(terms, torch.stack(means).mean(dim=0).tolist(), strict=True))

    def _encode(self, loaded: Latents | list) -> Latents:
        """A batch of the data set, cached latents or samples, on the device."""
        if isinstance(loaded, list):
            return encode_samples(self.autoencoder, self.model, loaded)
        return loaded.to(self.accelerator.device)

    def _require_finite(self, name: str, value: Tensor, index: int) -> None:
        """StableVITONError that names the samples of accumulation step `index`. value: the same in
        all processes."""
        if value.isfinite():
            return
        config = self.config
        indices = self.sampler.sample_indices(config.seed, self.step, index, len(self.pairs))
        names = gather_object([self.pairs[pair].name for pair, _ in indices])
        raise StableVITONError(
            f"The {name} of step {self.step + 1} is {value.item()}. Its batch: {', '.join(names)}. "
            f"{describe_last_checkpoint(config.output)} Look at these images, or go on with a "
            f"lower learning rate (now {config.learning_rate})."
        )

    def _report(self, bar: tqdm, terms: dict[str, float]) -> None:
        rate, loss = self.lr_scheduler.get_last_lr()[0], sum(terms.values())
        scalars = {"loss": loss, "learning_rate": rate}
        scalars |= {f"loss/{name}": value for name, value in terms.items()}
        self.accelerator.log(scalars, step=self.step)
        bar.update()
        speed = bar.format_dict["rate"]
        bar.set_postfix(
            loss=f"{loss:.4f}",
            lr=f"{rate:.1e}",
            samples_per_second="?" if not speed else f"{speed * self.sampler.joint_batch_size:.1f}",
            refresh=False,
        )

    def save_checkpoint(self) -> Path:
        """Write this step's checkpoint -> its folder. StableVITONError where that fails; earlier
        checkpoints stay."""
        config, accelerator = self.config, self.accelerator
        # collective operations come first: a process that failed before one would block the others
        state = gather_sharded_state(accelerator, self.model, self.optimizer, self.lr_scheduler)
        trained = gather_full_tensors(self.trained)
        ema_weights = None
        if self.ema:
            shadows = zip(self.trained, self.ema.shadow_params, strict=True)
            ema_weights = gather_full_tensors(dict(shadows))

        def write(folder: Path) -> None:
            save_state(accelerator, folder / STATE, state)
            if not accelerator.is_main_process:
                return
            save_parameters(folder / TRAINED, trained)
            if self.ema and ema_weights:
                save_parameters(folder / EMA, ema_weights, self.ema.optimization_step)
            save_weights(
                folder / WEIGHTS,
                merge_trained(config.init, config.vae, ema_weights or trained),
                self.model.config,
                config.save_dtype,
                self.metadata | {STEP_KEY: str(self.step)},
            )

        folder = checkpoint_folder(config.output, self.step)
        write_checkpoint(accelerator, folder, config.checkpoints_total_limit, write)
        return folder

    def validate(self, validation: ValidationSet) -> None:
        """Sample the validation pairs to an image grid. All processes take part: each may hold only
        a shard of the weights."""
        config, accelerator = self.config, self.accelerator
        self.autoencoder.to(accelerator.device)
        self.model.eval()
        with use_ema_weights(self.ema, self.trained, self.model), accelerator.autocast():
            steps = config.num_inference_steps
            grid = validation.make_image_grid(self.model, self.autoencoder, steps)
        if config.cache_latents:
            self.autoencoder.to("cpu")
        if accelerator.is_main_process:
            write_image(config.output / VALIDATION_IMAGE, grid)
            writer = accelerator.get_tracker("tensorboard", unwrap=True)
            writer.add_image("validation", grid, self.step, dataformats="HWC")
