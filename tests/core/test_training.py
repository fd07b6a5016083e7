"""The training loop: objective, trainable start, and what it writes."""

from dataclasses import replace

import pytest
import torch

from helpers.checkpoints import SMALL
from helpers.golden import fill
from stableviton_core.checkpoint import config_from_metadata, split
from stableviton_core.config import NetworkConfig
from stableviton_core.diffusion import add_noise, alphas_cumprod
from stableviton_core.files import read_weights
from stableviton_core.training.autoencoder import build_autoencoder
from stableviton_core.training.demo_network import random_dolls, save_checkpoint
from stableviton_core.training.latents import decode, encode_dolls
from stableviton_core.training.loop import Training, noise_loss, train
from stableviton_core.training.model import TryOnModel
from stableviton_core.training.sample import try_on
from stableviton_core.training.start import copy_encoder, zero_init
from stableviton_core.training.start_denoiser import start_from_denoiser

TINY = replace(
    SMALL,
    network=NetworkConfig(
        base_width=96, multipliers=(1, 1), blocks=1, attention=(1, 2), context_width=96
    ),
)


@pytest.fixture(scope="module")
def autoencoder():
    torch.manual_seed(0)
    return build_autoencoder(SMALL.autoencoder).eval()


@pytest.fixture
def model() -> TryOnModel:
    torch.manual_seed(0)
    return TryOnModel(TINY)


@pytest.fixture(scope="module")
def data(autoencoder):
    return encode_dolls(autoencoder, random_dolls(2, 2, 128, seed=0))


def test_encoded_dolls_share_a_persons_pictures(data, autoencoder):
    assert len(data) == 4
    assert torch.equal(data.agnostic[0], data.agnostic[1])
    assert torch.equal(data.densepose[2], data.densepose[3])
    assert not torch.equal(data.garment[0], data.garment[1])
    people = random_dolls(2, 2, 128, seed=0)
    single = encode_dolls(autoencoder, [[people[1][0]]])
    assert torch.allclose(single.person[0], data.person[2], atol=1e-3)
    assert torch.allclose(single.agnostic[0], data.agnostic[3], atol=1e-3)
    assert decode(autoencoder, data.person[:1]).shape == (1, 128, 96, 3)


def test_zero_init_leaves_the_garment_without_influence(model, data):
    zero_init(model.network)
    x, t = fill("zero/x", (1, 13, 16, 12)), torch.tensor([500])
    context = model.unconditional(1)
    first, second = (model.network(x, t, context, data.garment[i : i + 1]) for i in (0, 1))
    assert torch.equal(first, second)
    assert torch.equal(first, model.network.trunk(x, t, context))


def test_the_spatial_encoder_starts_as_the_trunks_encoder(model):
    zero_init(model.network)
    copy_encoder(model.network)
    encoder, trunk = model.network.encoder.state_dict(), model.network.trunk.state_dict()
    shared = [key for key in encoder if not key.startswith("cond_first_block.")]
    assert all(torch.equal(encoder[key], trunk[key]) for key in shared)
    assert not encoder["cond_first_block.0.weight"].any()


def test_a_network_that_knows_the_noise_has_no_loss(model, data):
    noise = fill("loss/noise", tuple(data.person.shape))
    model.network.forward = lambda x, timesteps, context, garment: noise
    loss = noise_loss(model, data, torch.full((4,), 300), noise, model.unconditional(4))
    assert loss.item() == 0
    model.network.forward = lambda x, timesteps, context, garment: noise + 2
    loss = noise_loss(model, data, torch.full((4,), 300), noise, model.unconditional(4))
    assert loss.item() == pytest.approx(4, rel=1e-5)


def test_training_lowers_the_loss_and_repeats_with_its_seed(data):
    def run() -> list[float]:
        torch.manual_seed(0)
        losses: list[float] = []
        training = Training(steps=25, batch=4, learning_rate=2e-3, warmup=2)
        train(TryOnModel(TINY), data, training, lambda step, loss, average: losses.append(loss))
        return losses

    first = run()
    assert sum(first[-5:]) < 0.9 * sum(first[:5])
    assert run() == first


def test_a_saved_checkpoint_is_the_model(tmp_path, model, autoencoder, data):
    file = tmp_path / "demo.safetensors"
    save_checkpoint(file, model, autoencoder, TINY)
    weights, metadata = read_weights(file)
    assert config_from_metadata(metadata) == TINY
    again = TryOnModel(TINY).eval()
    again.load_parts({k: {n: v.float() for n, v in p.items()} for k, p in split(weights).items()})
    expected, actual = (try_on(m.eval(), data[:1], steps=2) for m in (model, again))
    assert (actual - expected).abs().max() / expected.std() < 0.02
    assert [path.name for path in tmp_path.iterdir()] == ["demo.safetensors"]


@torch.no_grad()
@pytest.mark.parametrize("timestep", [201, 601, 951])
def test_it_starts_with_what_is_known(model, timestep):
    start_from_denoiser(model.network.trunk)
    zero_init(model.network)
    latent, noise = fill("start/z", (2, 4, 16, 12)), fill("start/n", (2, 4, 16, 12))
    timesteps = torch.full((2,), timestep)
    keep = torch.ones(2, 1, 16, 12)
    keep[:, :, 4:10, 3:9] = 0
    x = torch.cat([add_noise(latent, noise, timesteps), keep * latent, keep, latent], dim=1)
    eps = model.network(x, timesteps, model.unconditional(2), latent)
    abar = alphas_cumprod()[timestep].item()
    kept = (keep == 1).expand_as(eps)
    error = (eps - noise) * ((1 - abar) / abar) ** 0.5  # of the latent that it stands for
    assert error[kept].square().mean().sqrt() < 0.15
    identity = (eps - x[:, :4])[~kept]
    assert identity.square().mean().sqrt() < 0.2


def test_the_velocity_loss_divides_by_abar(model, data):
    noise = torch.zeros_like(data.person)
    model.network.forward = lambda *_: torch.ones_like(noise)
    timesteps = torch.tensor([0, 300, 600, 999])
    loss = noise_loss(model, data, timesteps, noise, model.unconditional(4), velocity=True)
    assert loss.item() == pytest.approx((1 / alphas_cumprod()[timesteps]).mean().item(), rel=1e-5)
