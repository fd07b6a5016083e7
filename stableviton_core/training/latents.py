"""Pictures encoded once, so that a training step needs no autoencoder."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from ..diffusion import latent_mask
from .autoencoder import to_signed
from .dolls import Doll


@dataclass(frozen=True)
class Latents:
    """A batch of training pairs. Latents N x 4 x h x w, scaled; keep N x 1 x h x w, 1 = keep;
    garment_image N x H x W x 3 uint8."""

    person: Tensor
    agnostic: Tensor
    densepose: Tensor
    garment: Tensor
    keep: Tensor
    garment_image: Tensor

    def __len__(self) -> int:
        return len(self.person)

    def __getitem__(self, chosen: Tensor | slice) -> "Latents":
        return Latents(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})


@torch.no_grad()
def encode(autoencoder: AutoencoderKL, images: np.ndarray) -> Tensor:
    """uint8 N x H x W x 3 -> scaled posterior modes N x 4 x H/8 x W/8."""
    mode = autoencoder.encode(to_signed(images)).latent_dist.mode()
    return mode * autoencoder.config["scaling_factor"]


@torch.no_grad()
def decode(autoencoder: AutoencoderKL, latents: Tensor) -> np.ndarray:
    """Scaled latents N x 4 x h x w -> uint8 N x H x W x 3."""
    images = autoencoder.decode(latents / autoencoder.config["scaling_factor"]).sample
    images = (images.permute(0, 2, 3, 1) + 1) * 127.5  # N C H W -> N H W C
    return images.round().clamp(0, 255).to(torch.uint8).numpy()


def encode_dolls(
    autoencoder: AutoencoderKL, people: Sequence[Sequence[Doll]], few: int = 16
) -> Latents:
    """A pair for each doll. people: the dolls of each person, who differ in the garment only, so
    that one agnostic and one DensePose image serve them all. few: pictures encoded at a time."""

    def encoded(images: Iterable[np.ndarray]) -> Tensor:
        return torch.cat([encode(autoencoder, np.stack(chunk)) for chunk in batched(images, few)])

    counts = torch.tensor([len(dolls) for dolls in people])
    first = [dolls[0] for dolls in people]
    everyone = [doll for dolls in people for doll in dolls]
    person = encoded(doll.image for doll in everyone)
    mask = torch.from_numpy(np.stack([doll.mask for doll in first]))[:, None]  # N H W -> N 1 H W
    keep = latent_mask((mask == 0).float(), tuple(person.shape[2:]))
    return Latents(
        person=person,
        agnostic=encoded(doll.agnostic for doll in first).repeat_interleave(counts, dim=0),
        densepose=encoded(doll.densepose for doll in first).repeat_interleave(counts, dim=0),
        garment=encoded(doll.garment for doll in everyone),
        keep=keep.repeat_interleave(counts, dim=0),
        garment_image=torch.from_numpy(np.stack([doll.garment for doll in everyone])),
    )


def batched(items: Iterable[np.ndarray], few: int) -> Iterator[list[np.ndarray]]:
    """Lists of at most `few` items."""
    iterator = iter(items)
    while chunk := list(islice(iterator, few)):
        yield chunk
