"""What a training run is told: one typed configuration, from a YAML file and from flags."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from jsonargparse import ArgumentParser


@dataclass(frozen=True)
class TrainConfig:
    """Flags have the names of diffusers' train_controlnet.py where the meaning is the same.

    Args:
        data: Folder of the VITON-HD layout.
        init: StableVITON checkpoint to start from (see `init` for making one).
        output: Folder for checkpoints, sheets and logs.
        phase: base is noise prediction; atv adds the attention total variation.
        vae: VAE to use instead of the checkpoint's, such as a separately fine-tuned one.
        height: Pixels, a multiple of 8.
        width: Pixels, a multiple of 8.
        seed: Order of the data, noise, timesteps and augmentation follow from it and the step.
        train_batch_size: Pairs a process and a gradient accumulation step.
        gradient_accumulation_steps: Batches that make one step.
        max_train_steps: Steps in all, those before a resumption included.
        learning_rate: Peak of the schedule.
        lr_scheduler: A schedule of diffusers by name, such as constant, linear or cosine.
        lr_warmup_steps: Steps of linear warm-up; constant has none.
        adam_beta1: Of AdamW.
        adam_beta2: Of AdamW.
        adam_weight_decay: Of AdamW.
        adam_epsilon: Of AdamW.
        max_grad_norm: Gradients are clipped to this norm.
        mixed_precision: Type of the frozen parts and of autocast.
        gradient_checkpointing: Recompute activations in the backward pass; slower, less memory.
        torch_compile: Compile the network at the first step.
        train_patterns: Checkpoint names (with * and ?) of what is trained; as released.
        freeze_patterns: Exceptions from these.
        train_input_conv: Also train the unet's first convolution, which the released code lists
            but gives no gradient.
        cond_drop_prob: How often the learned vector stands in for the garment.
        unconditional_draw: Draw that for each sample, or once a batch, as released.
        loss_weighting: noise is Stable Diffusion's objective, as released; velocity weighs high
            noise far more, for networks trained from nothing.
        atv_weight: Of the attention total variation, in phase atv.
        atv_blocks: Zero cross-attention blocks with that term; 4 as released.
        correspondence_weight: Of the error of where these blocks look; not in the paper.
        correspondence_blocks: Zero cross-attention blocks that are told where to look, by the
            data's gt_cloth_coordinates; none as released.
        augmentation: Random flips, shifts, scales and colours, as in the paper.
        cache_latents: Encode all pictures once, to disk; else in every step.
        cache_variants: Augmented variants of each pair in the cache.
        cache_dir: Folder of the cache; latents in output if not given.
        dataloader_num_workers: Processes that load pictures or latents; 0 is this one.
        use_ema: Average the weights; checkpoints then hold the average.
        ema_decay: Of that average.
        checkpointing_steps: Save after so many steps, and at the end.
        checkpoints_total_limit: Keep so many of the last checkpoints.
        save_dtype: Type of the weights in checkpoints (the training state stays exact).
        resume_from_checkpoint: latest, or a checkpoint folder of an earlier run.
        validation_steps: Sample a sheet after so many steps, and at the end; 0 never.
        validation_pairs: File with the pairs of the sheet, in data; its folder is test.
        num_validation_images: Pairs on the sheet.
        num_inference_steps: PLMS steps for the sheet.
    """

    data: Path
    init: Path
    output: Path
    phase: Literal["base", "atv"] = "base"
    vae: Path | None = None
    height: int = 512
    width: int = 384
    seed: int = 0
    train_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    max_train_steps: int = 1000
    learning_rate: float = 1e-4
    lr_scheduler: str = "constant"
    lr_warmup_steps: int = 0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_weight_decay: float = 1e-2
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    gradient_checkpointing: bool = False
    torch_compile: bool = False
    train_patterns: tuple[str, ...] = (
        "control_model.*",
        "model.diffusion_model.warp_*",
        "proj_out.*",
        "learnable_vector",
    )
    freeze_patterns: tuple[str, ...] = ()
    train_input_conv: bool = False
    cond_drop_prob: float = 0.2
    unconditional_draw: Literal["sample", "batch"] = "sample"
    loss_weighting: Literal["noise", "velocity"] = "noise"
    atv_weight: float = 0.001
    atv_blocks: tuple[int, ...] = (4,)
    correspondence_weight: float = 0.01
    correspondence_blocks: tuple[int, ...] = ()
    augmentation: bool = True
    cache_latents: bool = True
    cache_variants: int = 4
    cache_dir: Path | None = None
    dataloader_num_workers: int = 0
    use_ema: bool = False
    ema_decay: float = 0.9999
    checkpointing_steps: int = 500
    checkpoints_total_limit: int = 3
    save_dtype: Literal["fp32", "fp16", "bf16"] = "fp16"
    resume_from_checkpoint: str | None = None
    validation_steps: int = 500
    validation_pairs: str = "test_pairs.txt"
    num_validation_images: int = 4
    num_inference_steps: int = 20

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            if getattr(self, name) % 8 or getattr(self, name) <= 0:
                raise ValueError(
                    f"{name} must be a positive multiple of 8, got {getattr(self, name)}"
                )
        for name in (
            "train_batch_size",
            "gradient_accumulation_steps",
            "max_train_steps",
            "checkpointing_steps",
            "checkpoints_total_limit",
            "cache_variants",
            "num_validation_images",
            "num_inference_steps",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        share = self.cond_drop_prob
        if not 0 <= share <= 1:
            raise ValueError(f"cond_drop_prob is a share of 0..1, got {share}")


Config = TypeVar("Config")


def parse_config(arguments: Sequence[str], kind: type[Config], command: str) -> Config:
    """A configuration from `--config FILE.yaml` and flags; later ones win. Ends the process with a
    message where a name or a value is wrong, as command lines do."""
    parser = ArgumentParser(prog=f"stableviton_core {command}", allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the flags below")
    parser.add_class_arguments(kind)
    namespace = parser.parse_args([_with_underscores(argument) for argument in arguments])
    values: dict[str, Any] = {k: v for k, v in vars(namespace).items() if k != "config"}
    try:
        return kind(**values)
    except ValueError as error:
        parser.error(str(error))


def _with_underscores(argument: str) -> str:
    """--train-input-conv is --train_input_conv."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value
