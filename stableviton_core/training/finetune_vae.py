"""Fine-tuning the VAE on a data set's pictures, as the authors do beside the network."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL
from safetensors import SafetensorError
from safetensors.torch import save_file
from tqdm import tqdm

from ..errors import StableVITONError
from ..evaluation.lpips import lpips
from ..files import replace_atomically
from ..model.checkpoint import (
    LICENSE_KEY,
    RELEASED_LICENSE,
    config_from_metadata,
    read_weights,
    split,
    tuples,
)
from ..model.config import AutoencoderConfig
from .batches import Share
from .check_data import raise_missing
from .dataset import load, read_pairs
from .vae import loaded_autoencoder, to_ldm, to_signed

AUTOENCODER_KEY = "stableviton.autoencoder"  # its sizes, in the metadata of a file of ours


@dataclass(frozen=True)
class VaeConfig:
    """Fine-tune the VAE's decoder; the encoder stays, so latents keep their meaning.

    Args:
        data: Folder of the VITON-HD layout.
        init: StableVITON checkpoint, or a VAE on its own.
        output: The .safetensors file to write.
        height: Pixels, a multiple of 8.
        width: Pixels, a multiple of 8.
        max_train_steps: Steps in all; persons and garments take turns.
        train_batch_size: Pictures a process and step.
        learning_rate: Of AdamW.
        lpips_weight: Of the perceptual term (VGG), added to L1 in -1..1. Needs backbone_dir.
        backbone_dir: Folder with checkpoints/vgg16-397923af.pth (torchvision's).
        mixed_precision: Of autocast.
        seed: The order of the pictures follows from it.
    """

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
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.output.suffix != ".safetensors":
            raise ValueError(f"output must end in .safetensors, got {self.output.name}")


def finetune_vae(config: VaeConfig) -> None:
    """Writes `output`, LDM names without prefix, which `train --vae`, `convert` and ComfyUI's
    VAELoader take. UserErrors say what is wrong with the data, the files and the run."""
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    pairs = read_pairs(config.data, "train", paired=True)
    raise_missing(pairs)
    autoencoder, metadata = load_vae(config.init)
    autoencoder.encoder.requires_grad_(False)
    autoencoder.quant_conv.requires_grad_(False)
    perceptual = None
    if config.lpips_weight:
        if config.backbone_dir is None:
            raise StableVITONError("the perceptual term needs --backbone-dir with VGG's weights")
        perceptual = lpips("vgg", config.backbone_dir).to(accelerator.device)
    parameters = [p for p in autoencoder.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate)
    autoencoder, optimizer = accelerator.prepare(autoencoder, optimizer)
    share = Share(
        config.train_batch_size, processes=accelerator.num_processes, rank=accelerator.process_index
    )

    def pictures(step: int) -> np.ndarray:
        """Persons in even, garments in odd steps."""
        own = share.choices(config.seed, step, 0, len(pairs))
        samples = [load(pairs[pair], config.height, config.width) for pair, _ in own]
        return np.stack([s.garment if step % 2 else s.image for s in samples])

    bar = tqdm(range(config.max_train_steps), "VAE", disable=not accelerator.is_main_process)
    for step in bar:
        target = to_signed(pictures(step)).to(accelerator.device)
        with accelerator.autocast():
            output = autoencoder(target).sample.float()  # of the posterior's mode
        loss = F.l1_loss(output, target)
        mean = accelerator.gather(loss.detach()[None]).mean().item()
        if not math.isfinite(mean):
            raise StableVITONError(
                f"The VAE's loss of step {step + 1} is {mean}. Nothing was written. Lower the "
                f"learning rate ({config.learning_rate})."
            )
        if perceptual is not None:
            shown = output.clamp(-1, 1)
            loss = loss + config.lpips_weight * perceptual((shown + 1) / 2, (target + 1) / 2)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        bar.set_postfix(l1=f"{mean:.4f}", refresh=False)
    if accelerator.is_main_process:
        _save(config.output, accelerator.unwrap_model(autoencoder), metadata)


def load_vae(path: Path) -> tuple[AutoencoderKL, dict[str, str]]:
    """The VAE of a checkpoint, or a VAE on its own (of Stable Diffusion's size where the file says
    nothing else), and the metadata to write with it."""
    weights, metadata = read_weights(path)
    own = split(weights)["autoencoder"]
    if own:
        config = config_from_metadata(metadata).autoencoder
    else:
        config = AutoencoderConfig(**tuples(json.loads(metadata.get(AUTOENCODER_KEY, "{}"))))
    autoencoder = loaded_autoencoder(config, own or weights, path)
    described = {AUTOENCODER_KEY: json.dumps(asdict(config))}
    if own or LICENSE_KEY in metadata:
        described[LICENSE_KEY] = metadata.get(LICENSE_KEY, RELEASED_LICENSE)
    return autoencoder, described


def _save(file: Path, autoencoder: AutoencoderKL, metadata: dict[str, str]) -> None:
    weights = {k: v.detach().cpu().contiguous() for k, v in to_ldm(autoencoder).items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replace_atomically(file) as partial:
            save_file(weights, partial, metadata)
    except (OSError, SafetensorError) as error:
        raise StableVITONError(f"{file} could not be written: {error}") from error
