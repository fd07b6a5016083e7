"""Initial weights: of fine-tuning, and of a network that is trained from nothing."""

from dataclasses import replace

import pytest
import torch

from helpers.checkpoints import SMALL
from helpers.golden import fill
from stableviton_core.model.config import NetworkConfig
from stableviton_core.model.tryon_model import TryOnModel
from stableviton_core.schedule import add_noise, alphas_cumprod
from stableviton_core.synthetic.warm_start import initialize_denoiser
from stableviton_core.training.initialization import copy_encoder, zero_initial_layers

WIDE = replace(
    SMALL,
    network=NetworkConfig(
        model_channels=96, channel_mult=(1, 1), num_res_blocks=1, attention=(1, 2), context_dim=96
    ),
)


@pytest.fixture
def model() -> TryOnModel:
    torch.manual_seed(0)
    return TryOnModel(WIDE)


@torch.no_grad()
def test_zero_init_leaves_the_garment_without_influence(model):
    zero_initial_layers(model.network)
    x, t = fill("zero/x", (1, 13, 16, 12)), torch.tensor([500])
    context = model.image_projector.learnable_vector
    garments = (fill(f"zero/{name}", (1, 4, 16, 12)) for name in ("one", "two"))
    first, second = (model.network(x, t, context, garment) for garment in garments)
    assert torch.equal(first, second)
    assert torch.equal(first, model.network.unet(x, t, context))


def test_the_spatial_encoder_starts_as_the_unets_encoder(model):
    zero_initial_layers(model.network)
    copy_encoder(model.network)
    encoder, unet = model.network.encoder.state_dict(), model.network.unet.state_dict()
    shared = [key for key in encoder if not key.startswith("cond_first_block.")]
    assert all(torch.equal(encoder[key], unet[key]) for key in shared)
    assert not encoder["cond_first_block.0.weight"].any()


@torch.no_grad()
@pytest.mark.parametrize("timestep", [201, 601, 951])
def test_a_network_from_nothing_starts_with_what_is_known(model, timestep):
    initialize_denoiser(model.network.unet)
    zero_initial_layers(model.network)
    latent, noise = fill("start/z", (2, 4, 16, 12)), fill("start/n", (2, 4, 16, 12))
    timesteps = torch.full((2,), timestep)
    keep = torch.ones(2, 1, 16, 12)
    keep[:, :, 4:10, 3:9] = 0
    x = torch.cat([add_noise(latent, noise, timesteps), keep * latent, keep, latent], dim=1)
    eps = model.network(
        x, timesteps, model.image_projector.learnable_vector.expand(2, -1, -1), latent
    )
    abar = alphas_cumprod()[timestep].item()
    kept = (keep == 1).expand_as(eps)
    error = (eps - noise) * ((1 - abar) / abar) ** 0.5  # of the latent that it stands for
    assert error[kept].square().mean().sqrt() < 0.15
    identity = (eps - x[:, :4])[~kept]
    assert identity.square().mean().sqrt() < 0.2


def test_that_start_needs_three_channels_a_group():
    config = replace(WIDE.network, model_channels=64)
    with pytest.raises(ValueError, match="got 64"):
        initialize_denoiser(TryOnModel(replace(WIDE, network=config)).network.unet)
