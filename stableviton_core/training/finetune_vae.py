"""Fine-tuning of the VAE on a data set, as the authors do besides the network."""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from ..dataset.check_data import require_files
from ..dataset.pairs import read_pairs
from ..dataset.samples import load_sample
from ..errors import StableVITONError
from ..evaluation.lpips import BACKBONE_FILES, load_lpips
from ..files import replace_atomically
from ..interruption import Interrupt, catch_interrupts
from ..model.checkpoint import LICENSE_KEY, RELEASED_LICENSE, split
from ..model.config_metadata import (
    autoencoder_from_metadata,
    autoencoder_to_metadata,
    config_from_metadata,
)
from ..model.pretrained import explain_unwritable
from ..model.vae import load_autoencoder, normalize_uint8, to_ldm
from ..model.weight_reader import explain_file, read_weights
from .config import VaeConfig
from .distributed import any_process
from .distributed_sampler import DistributedStepSampler


def finetune_vae(config: VaeConfig) -> None:
    """Train, and write `output` in LDM key names without a prefix, as `train --vae`, `convert` and
    ComfyUI's VAELoader read it. StableVITONError where the data, a file or the loss is invalid.
    KeyboardInterrupt after Ctrl-C or SIGTERM, when what is done is saved."""
    with catch_interrupts() as interrupt:
        _finetune(config, interrupt)


def _finetune(config: VaeConfig, interrupt: Interrupt) -> None:
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    perceptual = load_perceptual_loss(config)
    pairs = read_pairs(config.data, "train", paired=True)
    require_files(pairs)
    autoencoder, metadata = load_vae(config.init)
    for module in (autoencoder.encoder, autoencoder.quant_conv):
        module.requires_grad_(config.train_encoder)
    parameters = [p for p in autoencoder.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate)
    torch.manual_seed(config.seed + accelerator.process_index)  # of the posterior's samples
    compute_loss, optimizer = accelerator.prepare(
        VaeLoss(autoencoder, perceptual, config), optimizer
    )
    sampler = DistributedStepSampler(
        config.train_batch_size,
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
    )

    def load_batch(step: int) -> Tensor:
        """Persons in even, garments in odd steps: B x 3 x H x W in -1..1."""
        indices = sampler.sample_indices(config.seed, step, 0, len(pairs))
        samples = [load_sample(pairs[pair], config.height, config.width) for pair, _ in indices]
        images = np.stack([s.garment if step % 2 else s.image for s in samples])
        return normalize_uint8(images).to(accelerator.device)

    bar = tqdm(range(config.max_train_steps), "VAE", disable=not accelerator.is_main_process)
    for step in bar:
        if any_process(accelerator, interrupt.requested):
            break
        target = load_batch(step)
        with accelerator.autocast():
            terms = compute_loss(target)
        loss = torch.stack(list(terms.values())).sum()
        mean = accelerator.gather(loss.detach()[None]).mean().item()
        if not math.isfinite(mean):
            raise StableVITONError(
                f"The VAE's loss of step {step + 1} is {mean}. Nothing was written. Lower the "
                f"learning rate ({config.learning_rate})."
            )
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        bar.set_postfix(
            {name: f"{value.item():.4f}" for name, value in terms.items()}, refresh=False
        )
    if accelerator.is_main_process:
        _save(config.output, autoencoder, metadata)
    if any_process(accelerator, interrupt.requested):
        raise KeyboardInterrupt(
            f"Stopped. {config.output} holds the VAE as it is now; to go on, give it as --init "
            "with another --output."
        )


def load_perceptual_loss(config: VaeConfig) -> nn.Module | None:
    """StableVITONError where its network is needed and not named."""
    if not config.lpips_weight:
        return None
    if config.backbone_dir is None:
        raise StableVITONError(
            "LPIPS needs VGG's weights: name with --backbone_dir a folder that has torchvision's "
            f"checkpoints/{BACKBONE_FILES['vgg']}, or go without it by --lpips_weight 0."
        )
    return load_lpips("vgg", config.backbone_dir).requires_grad_(False)


class VaeLoss(nn.Module):
    """An autoencoder with the loss of latent diffusion (arXiv 2112.10752), without its adversarial
    term. forward: B x 3 x H x W in -1..1 -> the weighted terms by name, scalars.

    The decoder alone is trained on the posterior's mode, which try-ons use. With the encoder, a
    sample of the posterior is decoded, and its KL divergence added, per value of the image: the
    weights are those of a loss that sums over them.
    """

    def __init__(self, autoencoder: AutoencoderKL, perceptual: nn.Module | None, config: VaeConfig):
        super().__init__()
        self.autoencoder = autoencoder
        self.perceptual, self.config = perceptual, config

    def forward(self, target: Tensor) -> dict[str, Tensor]:
        config = self.config
        posterior = self.autoencoder.encode(target).latent_dist
        latents = posterior.sample() if config.train_encoder else posterior.mode()
        image = self.autoencoder.decode(latents).sample.float()
        terms = {"l1": config.l1_weight * F.l1_loss(image, target)}
        if self.perceptual is not None:
            distance = self.perceptual((image.clamp(-1, 1) + 1) / 2, (target + 1) / 2)
            terms["lpips"] = config.lpips_weight * distance
        if config.train_encoder:
            terms["kl"] = config.kl_weight * posterior.kl().mean() / target[0].numel()
        return terms


def load_vae(path: Path) -> tuple[AutoencoderKL, dict[str, str]]:
    """The VAE of a StableVITON checkpoint or a VAE file, and the metadata of the fine-tuned file.

    A VAE file without a configuration in its metadata has Stable Diffusion's size.
    """
    weights, metadata = read_weights(path)
    component = split(weights)["autoencoder"]
    with explain_file(path):
        config = (
            config_from_metadata(metadata).autoencoder
            if component
            else autoencoder_from_metadata(metadata)
        )
    autoencoder = load_autoencoder(config, component or weights, path)
    output_metadata = autoencoder_to_metadata(config)
    if component or LICENSE_KEY in metadata:
        output_metadata[LICENSE_KEY] = metadata.get(LICENSE_KEY, RELEASED_LICENSE)
    return autoencoder, output_metadata


def _save(file: Path, autoencoder: AutoencoderKL, metadata: dict[str, str]) -> None:
    weights = {k: v.detach().cpu().contiguous() for k, v in to_ldm(autoencoder).items()}
    with explain_unwritable(file), replace_atomically(file) as partial:
        save_file(weights, partial, metadata)
