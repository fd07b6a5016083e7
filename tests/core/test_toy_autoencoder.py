"""The toy autoencoder: its initial weights, and its training."""

import numpy as np
import torch
import torch.nn.functional as F

from stableviton_core.model.config import AutoencoderConfig
from stableviton_core.model.vae import build_autoencoder
from stableviton_core.synthetic.toy_autoencoder import (
    CONFIG,
    AutoencoderTraining,
    initialize_mean_colour,
    train_autoencoder,
)


@torch.no_grad()
def test_it_starts_with_the_mean_colours():
    autoencoder = build_autoencoder(CONFIG)
    initialize_mean_colour(autoencoder)
    colours = torch.rand(2, 3, 8, 6) * 2 - 1
    image = colours.repeat_interleave(8, 2).repeat_interleave(8, 3)
    output = autoencoder.decode(autoencoder.encode(image).latent_dist.mode()).sample
    seen, wanted = F.avg_pool2d(output, 8).flatten(1), colours.flatten(1)
    correlation = torch.corrcoef(torch.stack([seen[0], wanted[0]]))[0, 1]
    assert correlation > 0.95


def test_training_learns_to_reconstruct():
    images = np.full((4, 128, 96, 3), 40, np.uint8)
    images[:, 32:96, 24:72] = (200, 60, 120)
    torch.manual_seed(0)
    autoencoder = build_autoencoder(AutoencoderConfig(32, (1, 1, 1, 1), 1))
    losses = []
    training = AutoencoderTraining(steps=40, whole_steps=2, batch=4, whole_batch=1, warmup=5)
    train_autoencoder(autoencoder, images, training, losses.append)
    assert len(losses) == 42
    assert np.mean(losses[30:40]) < 0.8 * np.mean(losses[:10])
