"""Try-ons of the model, sampled as latents."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..model.tryon_model import TryOnModel
from ..plms import plms_timesteps, sample_plms
from .encoding import Latents, concat_network_input


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
