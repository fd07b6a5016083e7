"""Fine-tuning the VAE's decoder on a data set's pictures, as the authors do beside the network.

The encoder stays, so latents that a network was trained with keep their meaning.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from tqdm import tqdm

from ..checkpoint import CheckpointError, config_from_metadata, split
from ..config import AutoencoderConfig
from ..files import RELEASED_LICENCE, read_weights
from .autoencoder import build_autoencoder, load_ldm, to_ldm, to_signed
from .batches import chosen
from .check import raise_missing
from .data import load, read_pairs
from .perceptual import BackboneError, lpips
from .saving import LICENCE_KEY, TrainingError


@dataclass(frozen=True)
class VaeConfig:
    """data, init, output: folder of pictures, file to start from, file to write. lpips_weight: of
    the perceptual term (VGG), which is added to L1 in -1..1 and needs backbone_dir."""

    data: Path
    init: Path
    output: Path
    height: int = 512
    width: int = 384
    max_train_steps: int = 1000
    train_batch_size: int = 1
    learning_rate: float = 1e-5
    lpips_weight: float = 0.0
    backbone_dir: Path | None = None
    mixed_precision: str = "no"
    seed: int = 0


def finetune_vae(config: VaeConfig) -> None:
    """Writes `output`, LDM names without prefix, which `train --vae`, `convert` and ComfyUI's
    VAELoader take. DataError, CheckpointError, BackboneError and TrainingError say what is wrong.
    """
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    pairs = read_pairs(config.data, "train", paired=True)
    raise_missing(pairs)
    autoencoder, metadata = load_vae(config.init)
    autoencoder.encoder.requires_grad_(False)
    autoencoder.quant_conv.requires_grad_(False)
    perceptual = None
    if config.lpips_weight:
        if config.backbone_dir is None:
            raise BackboneError("the perceptual term needs --backbone-dir with VGG's weights")
        perceptual = lpips("vgg", config.backbone_dir).to(accelerator.device)
    parameters = [p for p in autoencoder.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate)
    autoencoder, optimizer = accelerator.prepare(autoencoder, optimizer)
    rows = config.train_batch_size * accelerator.num_processes
    first = config.train_batch_size * accelerator.process_index

    def pictures(step: int) -> np.ndarray:
        """Persons in even, garments in odd steps."""
        picked = [
            pairs[chosen(config.seed, step * rows + first + i, len(pairs))[0]]
            for i in range(config.train_batch_size)
        ]
        samples = [load(pair, config.height, config.width) for pair in picked]
        return np.stack([s.garment if step % 2 else s.image for s in samples])

    bar = tqdm(range(config.max_train_steps), "VAE", disable=not accelerator.is_main_process)
    for step in bar:
        target = to_signed(pictures(step)).to(accelerator.device)
        with accelerator.autocast():
            output = autoencoder(target).sample.float()  # of the posterior's mode
        loss = F.l1_loss(output, target)
        if perceptual is not None:
            shown = output.clamp(-1, 1)
            loss = loss + config.lpips_weight * perceptual((shown + 1) / 2, (target + 1) / 2)
        if not torch.isfinite(accelerator.gather(loss.detach()[None])).all():
            raise TrainingError(
                f"The VAE's loss of step {step + 1} is {loss.item()}. Nothing was written. Lower "
                f"the learning rate ({config.learning_rate})."
            )
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
    if accelerator.is_main_process:
        _save(config.output, accelerator.unwrap_model(autoencoder), metadata)


def load_vae(path: Path) -> tuple[AutoencoderKL, dict[str, str]]:
    """The VAE of a checkpoint, or a VAE file of Stable Diffusion's size, and its metadata."""
    weights, metadata = read_weights(path)
    own = split(weights)["autoencoder"]
    config = config_from_metadata(metadata).autoencoder if own else AutoencoderConfig()
    autoencoder = build_autoencoder(config)
    try:
        load_ldm(autoencoder, {k: v.float() for k, v in (own or weights).items()})
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path} holds no VAE of this size ({error}).") from error
    return autoencoder, {LICENCE_KEY: metadata.get(LICENCE_KEY, RELEASED_LICENCE)}


def _save(file: Path, autoencoder: AutoencoderKL, metadata: dict[str, str]) -> None:
    weights = {k: v.detach().cpu().contiguous() for k, v in to_ldm(autoencoder).items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    try:
        save_file(weights, partial, metadata)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
