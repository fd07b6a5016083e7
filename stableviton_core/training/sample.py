"""Try-ons with the model in training, and a sheet to look at them."""

import numpy as np
import torch
from torch import Tensor

from ..plms import plms, plms_timesteps
from .autoencoder import to_signed
from .latents import Latents
from .loop import network_input
from .model import TryOnModel


@torch.no_grad()
def try_on(model: TryOnModel, batch: Latents, steps: int = 20, seed: int = 0) -> Tensor:
    """Sample from pure noise without guidance -> scaled latents B x 4 x h x w."""
    context = model.context(to_signed(batch.garment_image))
    noise = torch.randn(batch.person.shape, generator=torch.Generator().manual_seed(seed))

    def predict_noise(x: Tensor, t: int) -> Tensor:
        timesteps = torch.full((len(x),), t)
        return model.network(network_input(x, batch), timesteps, context, batch.garment)

    return plms(predict_noise, noise, plms_timesteps(steps))


def sheet(*columns: np.ndarray) -> np.ndarray:
    """Pictures N x H x W x 3 of each column, side by side, one row an item."""
    return np.concatenate([np.concatenate(row, axis=1) for row in zip(*columns, strict=True)])
