"""Try-ons of the model in training, as a grid of images."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from ..images import GREY_LEVEL, make_image_grid
from ..plms import plms_timesteps, sample_plms
from .dataset import Pair, load_sample, load_target_image
from .latent_cache import Latents, encode_samples
from .losses import concat_network_input
from .tryon_model import TryOnModel
from .vae import decode_latents


def make_noise_predictor(model: TryOnModel, batch: Latents) -> Callable[[Tensor, int], Tensor]:
    """The function (x B x 4 x h x w, timestep) -> predicted noise, conditioned on a batch."""
    no_drop = torch.zeros(len(batch), dtype=torch.bool, device=batch.person.device)

    def predict_noise(x: Tensor, t: int) -> Tensor:
        return model(
            x=concat_network_input(x, batch),
            timesteps=torch.full((len(x),), t, device=x.device),
            garment=batch.garment,
            drop_mask=no_drop,
            embedding=batch.embedding,
            garment_image=batch.garment_image,
        )

    return predict_noise


@torch.no_grad()
def sample_tryon(model: TryOnModel, batch: Latents, steps: int = 20, seed: int = 0) -> Tensor:
    """PLMS from pure noise, without guidance -> scaled latents B x 4 x h x w."""
    noise = torch.randn(batch.person.shape, generator=torch.Generator().manual_seed(seed))
    predict_noise = make_noise_predictor(model, batch)
    return sample_plms(predict_noise, noise.to(batch.person), plms_timesteps(steps))


class ValidationSet:
    """Held-out pairs, encoded once."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        height: int,
        width: int,
        model: TryOnModel,
        autoencoder: AutoencoderKL,
    ):
        samples = [load_sample(pair, height, width) for pair in pairs]
        self.garments = [sample.garment for sample in samples]
        self.persons = [sample.image for sample in samples]
        unknown = np.full_like(self.persons[0], GREY_LEVEL)
        targets = [load_target_image(pair, height, width) for pair in pairs]
        self.targets = [unknown if target is None else target for target in targets]
        self.batch = encode_samples(autoencoder, model, samples)

    def make_image_grid(
        self, model: TryOnModel, autoencoder: AutoencoderKL, steps: int
    ) -> np.ndarray:
        """A row a pair: garment, person, try-on, ground truth (grey where there is none)."""
        results = decode_latents(autoencoder, sample_tryon(model, self.batch, steps))
        return make_image_grid(self.garments, self.persons, list(results), self.targets)
