"""The configuration of a training run, from a YAML file and from flags."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .ranges import check_ranges


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run. Flags are named as in diffusers' train_controlnet.py where they
    mean the same.

    Args:
        data: Data set folder in the VITON-HD or DressCode layout.
        category: upper, lower or dresses, of a DressCode data set; all by default.
        init: StableVITON checkpoint to start from (the command init makes one).
        output: Folder for checkpoints, validation images and logs.
        phase: base is noise prediction; atv adds the attention total variation loss.
        vae: File whose VAE replaces the checkpoint's, such as a fine-tuned one.
        height: Image height in pixels, a multiple of 8.
        width: Image width in pixels, a multiple of 8.
        seed: Seed of data order, augmentation, timesteps and noise.
        train_batch_size: Pairs per process and gradient accumulation step.
        gradient_accumulation_steps: Batches per optimizer step.
        max_train_steps: Optimizer steps in total, including those before resuming.
        learning_rate: Peak learning rate of the schedule.
        lr_scheduler: Name of a diffusers schedule, such as constant, linear or cosine.
        lr_warmup_steps: Steps of linear warm-up; constant has none.
        optimizer: adamw, or adamw_8bit (bitsandbytes), whose state takes a quarter of the memory.
        adam_beta1: beta1 of AdamW.
        adam_beta2: beta2 of AdamW.
        adam_weight_decay: Weight decay of AdamW.
        adam_epsilon: epsilon of AdamW.
        max_grad_norm: Gradients are clipped to this norm.
        mixed_precision: dtype of autocast and of frozen weights.
        gradient_checkpointing: Recompute activations in the backward pass; less memory, slower.
        torch_compile: Compile the network in the first step.
        train_patterns: Checkpoint names (with * and ?) of trained parameters; default as released.
        freeze_patterns: Names to freeze among these.
        train_input_conv: Also train the UNet's first convolution. The released code lists it but
            gives it no gradient.
        lora_rank: Rank of low-rank updates (LoRA), which are trained while all weights are frozen;
            0 for none.
        lora_alpha: Updates are scaled by lora_alpha / lora_rank; lora_rank by default.
        lora_patterns: Checkpoint names (with * and ?) of weights with an update: of linear layers
            and convolutions of spatial encoder, zero cross-attention and image projector.
        cond_drop_prob: Probability of replacing the garment embedding by the learned vector.
        cond_drop_per: Drop per sample, or per batch as released.
        loss_weighting: none as released; snr divides the noise error by alphas_cumprod, equivalent
            to v-prediction, which helps networks trained from scratch.
        atv_weight: Weight of the attention total variation loss, in phase atv.
        atv_blocks: Zero cross-attention blocks with that loss; by default chosen by the number of
            garment tokens, as released (4 at 512 x 384, 1 at 1024 x 768).
        correspondence_weight: Weight of the correspondence loss; not in the paper.
        correspondence_blocks: Zero cross-attention blocks with that loss, which needs the data
            set's gt_cloth_coordinates; none as released.
        augmentation: Random flips, shifts, scales and colour jitter, as in the paper.
        cache_latents: Encode all images once, to disk; otherwise in every step.
        cache_variants: Augmented variants per pair in the cache.
        cache_dir: Cache folder; latents beside output by default, for all runs there.
        dataloader_num_workers: Loader processes; 0 loads in the main process.
        use_ema: Keep an EMA of the trained weights, which checkpoints then hold.
        ema_decay: Decay of the EMA.
        checkpointing_steps: Save every so many steps, and at the end.
        checkpoints_total_limit: Number of checkpoints to keep; the oldest are deleted.
        save_dtype: dtype of the weights in checkpoints; the training state is not rounded.
        resume_from_checkpoint: latest, or a checkpoint folder of an earlier run.
        allow_changed: Resume with other settings, data or initial weights than the run had. Without
            it only what leaves the meaning of the run as it is may change, such as learning_rate,
            max_train_steps, paths, checkpointing and validation.
        validation_steps: Sample validation images every so many steps, and at the end; 0 for never.
        validation_pairs: Pairs file of the validation images, in data; the layout's own for the
            split test by default.
        validation_pairing: Persons of the validation images in other garments (unpaired), in their
            own (paired), or both, as released.
        validation_sampler: plms, or ddim as released. Both start from noise alone.
        validation_guidance: Scale of guidance of validation images; released is 5, none is 1.
        num_validation_images: Number of validation pairs, of each kind.
        num_inference_steps: Sampling steps of validation images; 50 as released.
    """

    data: Path
    init: Path
    output: Path
    category: Literal["upper", "lower", "dresses"] | None = None
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
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
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
    lora_rank: int = 0
    lora_alpha: float | None = None
    lora_patterns: tuple[str, ...] = ("control_model.*", "model.diffusion_model.warp_*")
    cond_drop_prob: float = 0.2
    cond_drop_per: Literal["sample", "batch"] = "sample"
    loss_weighting: Literal["none", "snr"] = "none"
    atv_weight: float = 0.001
    atv_blocks: tuple[int, ...] | None = None
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
    allow_changed: bool = False
    validation_steps: int = 500
    validation_pairs: str | None = None
    validation_pairing: Literal["unpaired", "paired", "both"] = "unpaired"
    validation_sampler: Literal["plms", "ddim"] = "plms"
    validation_guidance: float = 1.0
    num_validation_images: int = 4
    num_inference_steps: int = 20

    @property
    def cache_folder(self) -> Path:
        return self.cache_dir or self.output.parent / "latents"

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.lora_rank and self.train_input_conv:
            raise ValueError("train_input_conv trains a weight itself; lora_rank must be 0 with it")


@dataclass(frozen=True)
class VaeConfig:
    """Fine-tune the VAE with the reconstruction loss of latent diffusion (arXiv 2112.10752). The
    encoder is frozen by default, so that latents keep their meaning.

    Args:
        data: Folder of the VITON-HD layout.
        init: StableVITON checkpoint, or a VAE on its own.
        output: The .safetensors file to write.
        height: Pixels, a multiple of 8.
        width: Pixels, a multiple of 8.
        max_train_steps: Optimizer steps, alternately on person and garment images.
        train_batch_size: Images per process and step.
        learning_rate: AdamW's.
        l1_weight: Weight of the mean absolute error, in -1..1.
        lpips_weight: Weight of LPIPS (VGG); above 0 it needs backbone_dir.
        kl_weight: Weight of the KL divergence of the posterior from a standard normal distribution,
            a term of the encoder: without effect unless train_encoder.
        train_encoder: Also train the encoder. Latents change then, so the try-on network must be
            trained with the result.
        backbone_dir: Folder with checkpoints/vgg16-397923af.pth (torchvision's).
        mixed_precision: Type of autocast.
        seed: Determines the order of the images.
    """

    data: Path
    init: Path
    output: Path
    height: int = 512
    width: int = 384
    max_train_steps: int = 1000
    train_batch_size: int = 1
    learning_rate: float = 1e-5
    l1_weight: float = 1.0
    lpips_weight: float = 1.0
    kl_weight: float = 1e-6
    train_encoder: bool = False
    backbone_dir: Path | None = None
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.output.suffix != ".safetensors":
            raise ValueError(f"output must end in .safetensors, got {self.output.name}")
