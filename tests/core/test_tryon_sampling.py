"""Guidance, noise and the two samplers on the model."""

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from helpers.checkpoints import seeded_weights
from helpers.golden import error, fill
from helpers.training import TINY
from stableviton_core.inference.encoding import Latents, concat_network_input
from stableviton_core.inference.sampling import (
    draw_noise,
    make_noise_predictor,
    sample_ddim,
    sample_tryon,
)
from stableviton_core.model.checkpoint import split
from stableviton_core.model.tryon_model import TryOnModel
from stableviton_core.plms import plms_timesteps, sample_plms
from stableviton_core.schedule import start_code

SHAPE = (4, 8, 6)


@pytest.fixture(scope="module")
def model() -> TryOnModel:
    model = TryOnModel(TINY).eval().requires_grad_(False)
    model.load_components(split(seeded_weights(TINY)))
    return model


@pytest.fixture(scope="module")
def batch() -> Latents:
    names = ("person", "agnostic", "densepose", "garment")
    return Latents(
        **{name: fill(f"sampling/{name}", (3, *SHAPE)) for name in names},
        keep=(fill("sampling/keep", (3, 1, *SHAPE[1:])) > 0).float(),
        embedding=fill("sampling/embedding", (3, 1, TINY.clip.hidden_size)),
    )


@pytest.fixture(scope="module")
def noise() -> Tensor:
    return draw_noise(["a", "b", "c"], SHAPE, seed=1)


def count_passes(model: TryOnModel, batch: Latents, guidance: float) -> list[int]:
    """Items of every forward pass of one prediction."""
    sizes = []
    hook = model.network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    make_noise_predictor(model, batch, guidance)(fill("sampling/x", (3, *SHAPE)), 401)
    hook.remove()
    return sizes


def test_guidance_moves_from_the_unconditional_to_the_conditional_noise(model, batch):
    x = fill("sampling/x", (3, *SHAPE))
    inputs = (concat_network_input(x, batch), torch.full((3,), 401))
    projector = model.image_projector
    conditional = model.network(*inputs, projector.proj_out(batch.embedding), batch.garment)
    vector = projector.learnable_vector.expand(3, -1, -1)
    unconditional = model.network(*inputs, vector, batch.garment)
    assert error(unconditional, conditional) > 0.01
    for guidance in (0, 1, 2.5):
        expected = unconditional + guidance * (conditional - unconditional)
        actual = make_noise_predictor(model, batch, guidance)(x, 401)
        assert error(actual, expected) <= 1e-5, guidance


def test_without_guidance_there_is_no_unconditional_pass(model, batch):
    assert count_passes(model, batch, 1.0) == [3]
    assert count_passes(model, batch, 5.0) == [6]


def test_noise_is_a_function_of_seed_and_name(noise):
    assert torch.equal(draw_noise(["c"], SHAPE, seed=1)[0], noise[2])
    assert not torch.equal(draw_noise(["c"], SHAPE, seed=2)[0], noise[2])
    assert not torch.equal(noise[0], noise[1])
    many = draw_noise([str(n) for n in range(20)], SHAPE, seed=0)
    assert abs(many.mean()) < 0.05 and abs(many.std() - 1) < 0.05


@pytest.mark.parametrize("steps", [5, 30])
def test_ddim_is_that_of_diffusers(model, batch, noise, steps):
    """Its "leading" timesteps with an offset of 1 are the authors'."""
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.0120,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.tolist()
    if 1000 % steps:  # where the authors take one more
        timesteps.insert(0, plms_timesteps(steps)[0])
    predict_noise = make_noise_predictor(model, batch, 5.0)
    x = noise
    for t in timesteps:
        x = scheduler.step(predict_noise(x, t), t, x, eta=0.0).prev_sample
    assert error(sample_ddim(model, batch, noise, steps), x) <= 1e-3


def test_plms_starts_at_the_noised_person_or_at_noise(model, batch, noise):
    predict_noise, timesteps = make_noise_predictor(model, batch), plms_timesteps(5)
    for start, x in (("noised", start_code(batch.person, noise)), ("noise", noise)):
        expected = sample_plms(predict_noise, x, timesteps)
        assert error(sample_tryon(model, batch, noise, 5, start=start), expected) <= 1e-5


def test_items_do_not_depend_on_their_batch(model, batch, noise):
    together = sample_tryon(model, batch, noise, 5, guidance=2.0)
    for item in range(3):
        part = slice(item, item + 1)
        alone = sample_tryon(model, batch[part], noise[part], 5, guidance=2.0)
        assert error(together[part], alone) <= 1e-4


def test_every_step_is_reported(model, batch, noise):
    reports = []
    sample_tryon(model, batch, noise, 5, report_step=lambda: reports.append(1))
    assert len(reports) == 5
