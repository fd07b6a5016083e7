"""Try-ons of samples: images in, images out, with the networks of a checkpoint."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from ..dataset.samples import Sample
from ..devices import choose_device
from ..model.pretrained import load_model
from ..model.tryon_model import TryOnModel
from ..model.vae import decode_latents
from .config import TryOnConfig
from .devices import choose_dtype
from .encoding import encode_samples
from .sampling import draw_noise, sample_tryon


@dataclass(frozen=True, eq=False)
class Networks:
    """The networks of a checkpoint, on one device in one data type, without gradients."""

    model: TryOnModel
    autoencoder: AutoencoderKL


def load_networks(config: TryOnConfig) -> Networks:
    """CheckpointError where a file holds something else."""
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    model, autoencoder, _ = load_model(config.checkpoint, config.vae)
    for network in (model, autoencoder):
        # diffusers' own `to` warns about every type
        nn.Module.to(network.eval().requires_grad_(False), device, dtype)
    return Networks(model, autoencoder)


@torch.inference_mode()
def sample_latents(
    networks: Networks,
    samples: Sequence[Sample],
    names: Sequence[str],
    config: TryOnConfig,
    report_step: Callable[[], object] | None = None,
) -> Tensor:
    """Try-ons of samples of one size as scaled latents B x 4 x h x w.

    names: of the pairs; a result is a function of its sample, its name and the settings. Garment
    and person are encoded once, for all steps. report_step: called after a step.
    """
    batch = encode_samples(networks.autoencoder, networks.model, samples)
    noise = draw_noise(names, batch.person.shape[1:], config.seed)
    return sample_tryon(
        networks.model, batch, noise, config.steps, config.guidance, config.start, report_step
    )


def make_tryons(
    networks: Networks,
    samples: Sequence[Sample],
    names: Sequence[str],
    config: TryOnConfig,
    report_step: Callable[[], object] | None = None,
) -> list[np.ndarray]:
    """The results of `sample_latents` as images H x W x 3 uint8, repainted where asked for."""
    latents = sample_latents(networks, samples, names, config, report_step)
    results = list(decode_latents(networks.autoencoder, latents))
    if not config.repaint:
        return results
    return [
        repaint(sample.image, result, sample.mask)
        for sample, result in zip(samples, results, strict=True)
    ]


def repaint(person: np.ndarray, result: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """person x keep + result x (1 - keep), as released, H x W x 3 uint8. mask: H x W uint8,
    255 = generate, soft at the edges; keep = 1 - mask / 255."""
    change = mask[..., None].astype(np.float32) / 255
    return (person * (1 - change) + result * change).round().astype(np.uint8)
