"""Training: from a configuration to the last checkpoint."""

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.fsdp import register_fsdp_forward_method
from tqdm import tqdm

from ..errors import StableVITONError
from ..images import write_image
from ..inference.encoding import Latents, encode_samples
from ..interruption import Interrupt, catch_interrupts
from ..model.attention_recorder import AttentionRecorder
from ..model.checkpoint import LICENSE_KEY
from ..model.layers import enable_gradient_checkpointing
from ..model.pretrained import save_weights
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
    require_whole,
    save_parameters,
    write_checkpoint,
)
from .config import TrainConfig
from .data import make_dataset, make_loader, read_training_pairs
from .distributed import (
    any_process,
    clip_gradients,
    gather_full_tensors,
    gather_sharded_state,
    load_state,
    lock_output,
    make_accelerator,
    save_state,
    use_ema_weights,
    uses_fsdp,
)
from .distributed_sampler import DistributedStepSampler
from .initialization import load_initial_model
from .latent_cache import compute_cache_keys
from .lora import LORA, add_lora, save_lora
from .losses import (
    compute_loss,
    list_atv_blocks,
    list_recorded_blocks,
    make_model_inputs,
    sample_timesteps_and_noise,
)
from .optimizer import make_optimizer
from .reporting import StepReporter, StepResult, describe_setup
from .resume import describe_run, require_same_run
from .trainable_parameters import INPUT_CONVOLUTION, choose_trainable, format_counts
from .validation import ValidationSet

FROZEN_DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
VALIDATION_IMAGE = "validation.png"


def train(config: TrainConfig) -> Path:
    """Train, and return the folder of the last checkpoint.

    StableVITONError says what is wrong with the data, the checkpoint, the settings or the disk.
    KeyboardInterrupt after Ctrl-C or SIGTERM, when what is done is saved; it says how to go on.
    """
    try:
        accelerator = make_accelerator(config)
        with catch_interrupts() as interrupt, lock_output(accelerator, config.output):
            trainer = Trainer(config, interrupt, accelerator)
            if config.resume_from_checkpoint:
                trainer.resume()
            return trainer.train()
    except (OSError, SafetensorError) as error:
        raise StableVITONError(
            f"A file could not be read or written: {error}. "
            f"{describe_last_checkpoint(config.output)}"
        ) from error


class Trainer:
    """A training run, as one process or as one of several (DDP, FSDP 2).

    step: optimizer steps done. model: the TryOnModel; wrapped_model: the same as accelerate wraps
    it, for the forward passes of training. trained: the trained parameters by name, under FSDP this
    process's shards.
    """

    def __init__(
        self,
        config: TrainConfig,
        interrupt: Interrupt | None = None,
        accelerator: Accelerator | None = None,
    ):
        self.config = config
        self.interrupt = interrupt or Interrupt()
        self.step = 0
        self.accelerator = accelerator or make_accelerator(config)
        self.sampler = DistributedStepSampler(
            config.train_batch_size,
            config.gradient_accumulation_steps,
            self.accelerator.num_processes,
            self.accelerator.process_index,
        )
        self._say(describe_setup(self.accelerator, config, self.sampler.joint_batch_size))
        # whatever can be wrong is found before images are encoded, which can take hours
        self._read_data()
        self._load_model()
        self._describe_run()
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
        self.pairs, self.validation_pairs = read_training_pairs(config)

    def _load_model(self) -> None:
        config = self.config
        self.model, self.autoencoder, license = load_initial_model(config.init, config.vae)
        self.autoencoder.requires_grad_(False)
        patterns = config.train_patterns + (INPUT_CONVOLUTION,) * config.train_input_conv
        if config.lora_rank:
            counts = add_lora(self.model, config)
        else:
            counts = choose_trainable(self.model, patterns, config.freeze_patterns)
        self._say(format_counts(counts))
        self.attention = AttentionRecorder(
            self.model.network.zero_cross_attention,
            list_recorded_blocks(config, self.model.config.network),
        )
        if blocks := list_atv_blocks(config, self.model.config.network):
            self._say(f"attention total variation of zero cross-attention blocks {blocks}")
        self.metadata = {LICENSE_KEY: license}

    def _describe_run(self) -> None:
        """Metadata of the checkpoints. StableVITONError where the one to resume has others."""
        config = self.config
        self.metadata |= describe_run(config, self.pairs, self.sampler.joint_batch_size)
        if config.resume_from_checkpoint:
            folder = find_checkpoint(config.output, config.resume_from_checkpoint)
            require_whole(folder)
            file = folder / TRAINED
            for difference in require_same_run(file, self.metadata, config.allow_changed):
                self._say(f"changed: {difference}")

    def _make_optimizer(self) -> None:
        config = self.config
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = make_optimizer(config, trained)
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
        keys = None
        if config.cache_latents:  # before bf16 rounds weights, so that both phases have the same
            keys = compute_cache_keys(self.pairs, config, model, autoencoder)
        for module in (model, autoencoder):
            module.to(accelerator.device)
            for parameter in module.parameters():
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(FROZEN_DTYPES[config.mixed_precision])
        self.dataset = make_dataset(
            config, self.pairs, keys, model, autoencoder, accelerator, self.interrupt
        )
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

    def _say(self, text: str) -> None:
        if self.accelerator.is_main_process:
            tqdm.write(text)

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
        """All remaining steps -> the folder of the last checkpoint. Interrupted, it saves after the
        current step and raises KeyboardInterrupt with what to do."""
        config = self.config
        batches = iter(make_loader(config, self.dataset, self.sampler, self.step))
        folder = checkpoint_folder(config.output, self.step)
        interrupted = any_process(self.accelerator, self.interrupt.requested)
        with StepReporter(
            self.accelerator, self.step, config.max_train_steps, self.sampler.joint_batch_size
        ) as reporter:
            while self.step < config.max_train_steps and not interrupted:
                result = self.train_step(batches)
                reporter.report(self.step, result, self.lr_scheduler.get_last_lr()[0])
                interrupted = any_process(self.accelerator, self.interrupt.requested)
                if interrupted or self._is_due(config.checkpointing_steps):
                    folder = self.save_checkpoint()
                if self.validation and self._is_due(config.validation_steps) and not interrupted:
                    self.validate(self.validation)
        if self.step < config.max_train_steps:
            raise KeyboardInterrupt(
                f"Stopped after step {self.step} of {config.max_train_steps}. "
                f"{describe_last_checkpoint(config.output)} Go on with the same command and "
                "--resume_from_checkpoint latest."
                if self.step
                else "Stopped before the first step."
            )
        self._say(f"last checkpoint: {folder}")
        return folder

    def _is_due(self, interval: int) -> bool:
        return self.step % interval == 0 or self.step == self.config.max_train_steps

    def train_step(self, batches: Iterator) -> StepResult:
        """One optimizer step, over all accumulation steps, whose terms of the loss are means over
        them and over all processes. StableVITONError where loss or gradient is not finite."""
        start = time.perf_counter()
        config, accelerator = self.config, self.accelerator
        network, maps = self.model.config.network, self.attention.maps
        self.model.train()
        means, norm = [], torch.zeros(())
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
        mean_terms = dict(zip(terms, torch.stack(means).mean(dim=0).tolist(), strict=True))
        return StepResult(mean_terms, norm.item(), time.perf_counter() - start)

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
            weights, metadata = ema_weights or trained, self.metadata | {STEP_KEY: str(self.step)}
            save_parameters(folder / TRAINED, trained, metadata)
            if self.ema and ema_weights:
                count = {STEP_KEY: str(self.ema.optimization_step)}
                save_parameters(folder / EMA, ema_weights, count)
            if config.lora_rank:
                save_lora(folder / LORA, weights, self.model.config, config, metadata)
                return
            save_weights(
                folder / WEIGHTS,
                merge_trained(config.init, config.vae, weights),
                self.model.config,
                config.save_dtype,
                metadata,
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
            grid = validation.make_image_grid(self.model, self.autoencoder, config)
        if config.cache_latents:
            self.autoencoder.to("cpu")
        if accelerator.is_main_process:
            write_image(config.output / VALIDATION_IMAGE, grid)
            writer = accelerator.get_tracker("tensorboard", unwrap=True)
            writer.add_image("validation", grid, self.step, dataformats="HWC")
