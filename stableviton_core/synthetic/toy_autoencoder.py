"""The demo checkpoint's first half: an autoencoder of paper synthetic."""

from pathlib import Path

import numpy as np
from safetensors.torch import save_file
from tqdm import tqdm

from .. import synthetic
from ..files import replace_atomically
from ..model.config import AutoencoderConfig
from ..training.vae import (
    AutoencoderTraining,
    build_autoencoder,
    latent_scale,
    start_from_mean_colour,
    to_ldm,
    train_autoencoder,
)

HEIGHT = 256
FILE = "autoencoder.safetensors"
SCALE_KEY = "latent_scale"  # in its metadata
AUTOENCODER = AutoencoderConfig(model_channels=96, channel_mult=(1, 1, 1, 2), num_res_blocks=1)
TRAINING = AutoencoderTraining(steps=1900, whole_steps=150, batch=8, whole_batch=1)


def doll_pictures(count: int, seed: int) -> np.ndarray:
    """Persons, garments, agnostic and DensePose images of `count` dolls, uint8 N x H x W x 3."""
    rng = np.random.default_rng(seed)
    pictures = []
    for _ in tqdm(range(count), desc="drawing"):
        doll = synthetic.draw(synthetic.random_person(rng), synthetic.random_garment(rng), HEIGHT)
        pictures += [doll.image, doll.garment, doll.agnostic, doll.densepose]
    return np.stack(pictures)


def train(output: Path, training: AutoencoderTraining = TRAINING, count: int = 1200) -> None:
    """Writes `autoencoder.safetensors` (LDM names) with its latent scale in the metadata."""
    images = doll_pictures(count, training.seed)
    autoencoder = build_autoencoder(AUTOENCODER)
    start_from_mean_colour(autoencoder)
    with tqdm(
        total=training.steps + training.whole_steps, desc="autoencoder", mininterval=10
    ) as bar:

        def report(distance: float) -> None:
            bar.set_postfix(l1=f"{distance:.4f}", refresh=False)
            bar.update()

        train_autoencoder(autoencoder, images, training, report)
    scale = latent_scale(autoencoder, images[:256])
    weights = {key: value.contiguous() for key, value in to_ldm(autoencoder).items()}
    with replace_atomically(output / FILE) as partial:
        save_file(weights, partial, {SCALE_KEY: repr(scale)})
