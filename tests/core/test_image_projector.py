"""CLIP preprocessing, image projector and VAE against the authors' numbers."""

import pytest
import torch

from helpers.golden import error, fill, read_golden, weight
from stableviton_core.model.checkpoint import PREFIXES, full_key
from stableviton_core.model.config import ModelConfig
from stableviton_core.model.expected_shapes import TOWER
from stableviton_core.model.image_projector import ImageProjector, preprocess_for_clip
from stableviton_core.model.tryon_model import build_clip
from stableviton_core.model.vae import build_autoencoder, load_ldm, to_ldm


def cloth() -> torch.Tensor:
    return fill("input/cloth", (1, 3, 512, 384)).clamp(-1, 1)


def test_pixels_are_the_authors():
    golden = read_golden("full")["clip/pixels"]
    assert error(preprocess_for_clip(cloth())[:, :, ::4, ::4], golden) <= 1e-4


@pytest.mark.slow
@torch.no_grad()
def test_embedding_and_context_are_the_authors():
    config, golden = ModelConfig(), read_golden("full")
    clip, projector = build_clip(config.clip).eval(), ImageProjector(config)
    prefix = PREFIXES["clip"] + TOWER
    clip.load_state_dict({k: weight(prefix + k, v.shape) for k, v in clip.state_dict().items()})
    state = projector.state_dict()
    projector.load_state_dict(
        {k: weight(full_key("image_projector", k), v.shape) for k, v in state.items()}
    )
    pooled = clip(pixel_values=preprocess_for_clip(cloth())).pooler_output
    assert error(projector.embed(pooled), golden["clip/embedding"]) <= 1e-4
    assert error(projector(pooled), golden["clip/context"]) <= 1e-4


@pytest.mark.slow
@torch.no_grad()
def test_vae_mode_is_the_authors():
    autoencoder = build_autoencoder(ModelConfig().autoencoder).eval()
    prefix = PREFIXES["autoencoder"]
    weights = {key: weight(prefix + key, v.shape) for key, v in to_ldm(autoencoder).items()}
    load_ldm(autoencoder, weights)
    mode = autoencoder.encode(cloth()).latent_dist.mode()
    assert error(mode, read_golden("full")["vae/cloth_mode"]) <= 1e-4
