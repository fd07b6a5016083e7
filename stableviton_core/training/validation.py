"""Try-ons with the model in training, and a sheet to look at them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from ..files import replace_atomically
from ..images import GREY_LEVEL
from ..plms import plms, plms_timesteps
from .dataset import Pair, load, target_image
from .latents import Latents, decode, encode_samples
from .losses import network_input
from .model import TryOnModel


def noise_predictor(model: TryOnModel, batch: Latents) -> Callable[[Tensor, int], Tensor]:
    """The noise that the model predicts for samples of a batch at one timestep."""
    kept = torch.zeros(len(batch), dtype=torch.bool, device=batch.person.device)

    def predict(x: Tensor, t: int) -> Tensor:
        return model(
            x=network_input(x, batch),
            timesteps=torch.full((len(x),), t, device=x.device),
            garment=batch.garment,
            dropped=kept,
            embedding=batch.embedding,
            garment_image=batch.garment_image,
        )

    return predict


@torch.no_grad()
def try_on(model: TryOnModel, batch: Latents, steps: int = 20, seed: int = 0) -> Tensor:
    """Sample from pure noise without guidance -> scaled latents B x 4 x h x w."""
    noise = torch.randn(batch.person.shape, generator=torch.Generator().manual_seed(seed))
    return plms(noise_predictor(model, batch), noise.to(batch.person), plms_timesteps(steps))


def sheet(*columns: np.ndarray) -> np.ndarray:
    """Pictures N x H x W x 3 of each column, side by side, one row an item."""
    return np.concatenate([np.concatenate(row, axis=1) for row in zip(*columns, strict=True)])


def save_picture(file: Path, picture: np.ndarray) -> None:
    """PNG, written under another name, then renamed."""
    with replace_atomically(file) as partial:
        Image.fromarray(picture).save(partial, format="PNG")


class Validation:
    """Pairs that the training does not see, encoded once; `sheet` tries them on.

    Columns: garment, person, result, and who wears that garment in the data (the person, in
    paired data; the truth, for paper dolls), grey where nobody does.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        height: int,
        width: int,
        model: TryOnModel,
        autoencoder: AutoencoderKL,
    ):
        samples = [load(pair, height, width) for pair in pairs]
        self.garments = np.stack([sample.garment for sample in samples])
        self.persons = np.stack([sample.image for sample in samples])
        unknown = np.full_like(self.persons[0], GREY_LEVEL)
        targets = [target_image(pair, height, width) for pair in pairs]
        self.targets = np.stack([unknown if target is None else target for target in targets])
        self.batch = encode_samples(autoencoder, model, samples)

    def sheet(self, model: TryOnModel, autoencoder: AutoencoderKL, steps: int) -> np.ndarray:
        results = decode(autoencoder, try_on(model, self.batch, steps))
        return sheet(self.garments, self.persons, results, self.targets)
