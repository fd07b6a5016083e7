"""The images of pairs as the network takes them: encoded by the VAE and CLIP."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from ..dataset.samples import Sample
from ..image_tensors import resize_keep_mask
from ..model.config import CONCATENATED_INPUTS
from ..model.tryon_model import TryOnModel
from ..model.vae import encode_images, normalize_uint8


@dataclass(frozen=True)
class Latents:
    """A batch of pairs.

    person, agnostic, densepose, garment: B x 4 x h x w, scaled. keep: B x 1 x h x w, 1 = keep.
    embedding: B x 1 x CLIP's width, input of the image projector's last layer, where CLIP and the
    projector's transformer are frozen; else garment_image: B x H x W x 3 uint8. Where the data set
    has them, warped_mask: B x H x W uint8, 1 = the garment on the person, and garment_coordinates:
    B x H x W x 3 uint8, as in `Sample`.
    """

    person: Tensor
    agnostic: Tensor
    densepose: Tensor
    garment: Tensor
    keep: Tensor
    embedding: Tensor | None = None
    garment_image: Tensor | None = None
    warped_mask: Tensor | None = None
    garment_coordinates: Tensor | None = None

    def __len__(self) -> int:
        return len(self.person)

    def tensors(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def __getitem__(self, index: Tensor | slice) -> "Latents":
        return Latents(**{name: value[index] for name, value in self.tensors().items()})

    def repeat(self, times: int) -> "Latents":
        """The whole batch several times, one after the other."""
        values = self.tensors().items()
        return Latents(**{name: torch.cat([value] * times) for name, value in values})

    def to(self, device: torch.device) -> "Latents":
        return Latents(**{name: value.to(device) for name, value in self.tensors().items()})


@torch.no_grad()
def encode_samples(
    autoencoder: AutoencoderKL, model: TryOnModel, samples: Sequence[Sample]
) -> Latents:
    """Encode samples of one size, on the autoencoder's device."""

    def stack(name: str) -> np.ndarray:
        return np.stack([getattr(sample, name) for sample in samples])

    tensors = {
        name: encode_images(autoencoder, stack(field))
        for name, field in (
            ("person", "image"),
            ("agnostic", "agnostic"),
            ("densepose", "densepose"),
            ("garment", "garment"),
        )
    }
    person = tensors["person"]
    keep = (1 - torch.from_numpy(stack("mask")).float() / 255)[:, None]
    tensors["keep"] = resize_keep_mask(keep, tuple(person.shape[2:])).to(person)
    garments = torch.from_numpy(stack("garment")).to(person.device)
    if model.trains_embedding():
        tensors["garment_image"] = garments
    else:
        tensors["embedding"] = model.embed_garment(normalize_uint8(garments))
    for name, divisor in (("warped_mask", 255), ("garment_coordinates", 1)):
        if all(getattr(sample, name) is not None for sample in samples):
            tensors[name] = torch.from_numpy(stack(name) // divisor).to(person.device)
    return Latents(**tensors)


def concat_network_input(noisy: Tensor, batch: Latents) -> Tensor:
    """Noisy latent B x 4 x h x w and the CONCATENATED_INPUTS of a batch -> B x 13 x h x w."""
    return torch.cat([noisy, *(getattr(batch, name) for name in CONCATENATED_INPUTS)], dim=1)
