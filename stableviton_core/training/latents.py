"""Pairs as the network sees them, encoded by the frozen parts."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from ..images import resize_keep_mask
from .dataset import Sample
from .model import TryOnModel
from .vae import to_signed


@dataclass(frozen=True)
class Latents:
    """A batch of training pairs.

    person, agnostic, densepose, garment: N x 4 x h x w, scaled. keep: N x 1 x h x w, 1 = keep.
    embedding: N x 1 x CLIP's width, what the condition's projection takes, where CLIP and the
    condition's transformer are frozen. garment_image: N x H x W x 3 uint8, where they are trained.
    warped: N x H x W uint8, 1 = the worn garment, and garment_coordinates: N x H x W x 3 uint8, as in `Sample`,
    where the data has them.
    """

    person: Tensor
    agnostic: Tensor
    densepose: Tensor
    garment: Tensor
    keep: Tensor
    embedding: Tensor | None = None
    garment_image: Tensor | None = None
    warped: Tensor | None = None
    garment_coordinates: Tensor | None = None

    def __len__(self) -> int:
        return len(self.person)

    def tensors(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def __getitem__(self, chosen: Tensor | slice) -> "Latents":
        return Latents(**{name: value[chosen] for name, value in self.tensors().items()})

    def to(self, device: torch.device) -> "Latents":
        return Latents(**{name: value.to(device) for name, value in self.tensors().items()})


@torch.no_grad()
def encode(autoencoder: AutoencoderKL, images: np.ndarray) -> Tensor:
    """uint8 N x H x W x 3 -> scaled posterior modes N x 4 x H/8 x W/8."""
    pixels = to_signed(images).to(autoencoder.device, autoencoder.dtype)
    mode = autoencoder.encode(pixels).latent_dist.mode()
    return mode * autoencoder.config["scaling_factor"]


@torch.no_grad()
def decode(autoencoder: AutoencoderKL, latents: Tensor) -> np.ndarray:
    """Scaled latents N x 4 x h x w -> uint8 N x H x W x 3."""
    latents = latents.to(autoencoder.device, autoencoder.dtype)
    images = autoencoder.decode(latents / autoencoder.config["scaling_factor"]).sample
    images = (images.float().permute(0, 2, 3, 1) + 1) * 127.5  # N C H W -> N H W C
    return images.round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def encode_samples(
    autoencoder: AutoencoderKL, model: TryOnModel, samples: Sequence[Sample]
) -> Latents:
    """The latents of pictures of one size, on the autoencoder's device."""

    def encoded(name: str) -> Tensor:
        return encode(autoencoder, np.stack([getattr(sample, name) for sample in samples]))

    def known(name: str) -> Tensor | None:
        pictures = [getattr(sample, name) for sample in samples]
        if any(picture is None for picture in pictures):
            return None
        return torch.from_numpy(np.stack(pictures)).to(autoencoder.device)

    person = encoded("image")
    mask = torch.from_numpy(np.stack([sample.mask for sample in samples]))[:, None]  # N 1 H W
    keep = resize_keep_mask((mask == 0).float(), tuple(person.shape[2:])).to(person)
    garments = np.stack([sample.garment for sample in samples])
    return Latents(
        person=person,
        agnostic=encoded("agnostic"),
        densepose=encoded("densepose"),
        garment=encoded("garment"),
        keep=keep,
        **condition_input(model, garments, person.device),
        warped=None if (worn := known("warped")) is None else worn // 255,
        garment_coordinates=known("garment_coordinates"),
    )


@torch.no_grad()
def condition_input(
    model: TryOnModel, garments: np.ndarray, device: torch.device
) -> dict[str, Tensor]:
    """What a batch carries of its garments for the context: pictures where the way to the
    embedding is trained, else the embedding."""
    if model.trains_embedding():
        return {"garment_image": torch.from_numpy(garments).to(device)}
    return {"embedding": model.embedding(to_signed(garments).to(device))}
