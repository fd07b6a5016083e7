"""Try-ons of the model in training, as a grid of images."""

from collections.abc import Sequence

import numpy as np
from diffusers import AutoencoderKL

from ..dataset.pairs import Pair
from ..dataset.samples import load_sample, load_target_image
from ..images import GREY_LEVEL, make_image_grid
from ..inference.encoding import encode_samples
from ..inference.sampling import draw_noise, sample_ddim, sample_tryon
from ..model.tryon_model import TryOnModel
from ..model.vae import decode_latents
from .config import TrainConfig


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
        self.names = [pair.name for pair in pairs]
        self.garments = [sample.garment for sample in samples]
        self.persons = [sample.image for sample in samples]
        unknown = np.full_like(self.persons[0], GREY_LEVEL)
        targets = [load_target_image(pair, height, width) for pair in pairs]
        self.targets = [unknown if target is None else target for target in targets]
        self.batch = encode_samples(autoencoder, model, samples)

    def make_image_grid(
        self, model: TryOnModel, autoencoder: AutoencoderKL, config: TrainConfig
    ) -> np.ndarray:
        """A row a pair: garment, person, try-on, ground truth (grey where there is none). Sampled
        from noise alone, the same in every call."""
        noise = draw_noise(self.names, self.batch.person.shape[1:], seed=0)
        steps, guidance = config.num_inference_steps, config.validation_guidance
        results: list[np.ndarray] = []
        for first in range(0, len(noise), config.train_batch_size):
            part = slice(first, first + config.train_batch_size)
            batch = self.batch[part]
            if config.validation_sampler == "ddim":
                latents = sample_ddim(model, batch, noise[part], steps, guidance)
            else:
                latents = sample_tryon(model, batch, noise[part], steps, guidance, start="noise")
            results += list(decode_latents(autoencoder, latents))
        return make_image_grid(self.garments, self.persons, results, self.targets)
