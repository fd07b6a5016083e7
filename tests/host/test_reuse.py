"""StableVITONReuse: what is reused, for how long, and that it equals what is computed."""

import comfy.sample
import comfy.samplers
import pytest
import torch
from torch import Tensor

from helpers.host import apply, conditioning, make_images, sample

INPUT_BLOCKS = 12
FULL_RESOLUTION_INPUTS = 3  # the first convolution and the two blocks of the first level


@pytest.fixture(scope="module")
def conditions(host, loaded) -> tuple:
    return conditioning(host, loaded, **make_images())


def reuse(host, model, garment_interval: float = 0.0, deep_every: int = 1):
    (patched,) = host.node(
        "StableVITONReuse", model=model, garment_interval=garment_interval, deep_every=deep_every
    )
    return patched


def count_blocks(model) -> list[int]:
    """Grows by the number of each input block of the UNet that runs."""
    runs: list[int] = []
    for number, block in enumerate(model.model.diffusion_model.input_blocks):
        block[0].register_forward_pre_hook(lambda *_, number=number: runs.append(number))
    return runs


def count_encodings(loaded, monkeypatch) -> list[float]:
    """Grows by the timestep of each pass of the spatial encoder."""
    timesteps: list[float] = []
    encoder = loaded[1].adapter.model.encoder
    forward = encoder.forward

    def record(x: Tensor, t: Tensor, *rest: Tensor) -> list[Tensor]:
        timesteps.append(t[0].item())
        return forward(x, t, *rest)

    monkeypatch.setattr(encoder, "forward", record)
    return timesteps


@torch.inference_mode()
def predict_twice(model, conditions: tuple, second: int) -> tuple[Tensor, Tensor]:
    """What a run predicts for the same noisy latent at timestep 500, then at the second one."""
    positive, negative, latent = conditions
    predictions = []

    def predict(denoise, x: Tensor, sigmas: Tensor, extra_args: dict, **_) -> Tensor:
        sampling = model.get_model_object("model_sampling")
        for timestep in (500, second):
            sigma = sampling.sigmas[timestep].expand(len(x))
            predictions.append(denoise(x, sigma, **extra_args))
        return x

    comfy.sample.sample_custom(
        model,
        comfy.sample.prepare_noise(latent["samples"], 7),
        1.5,
        comfy.samplers.KSAMPLER(predict),
        torch.tensor([5.0, 1.0]),
        positive,
        negative,
        latent["samples"],
        disable_pbar=True,
    )
    first, second = predictions
    return first, second


def test_without_reuse_the_samples_are_the_same(host, loaded, conditions):
    model = apply(host, loaded[0], loaded)
    expected = sample(model, *conditions, cfg=1.5)
    assert torch.equal(sample(reuse(host, model), *conditions, cfg=1.5), expected)


def test_reused_features_equal_computed_ones_where_nothing_changed(host, loaded, conditions):
    model = apply(host, loaded[0], loaded)
    patched = reuse(host, model, garment_interval=1.0, deep_every=2)
    expected, again = predict_twice(model, conditions, second=500)
    assert torch.equal(expected, again)
    for prediction in predict_twice(patched, conditions, second=500):
        assert torch.allclose(prediction, expected, rtol=0, atol=1e-5)


def test_they_are_not_those_of_another_timestep(host, loaded, conditions):
    model = apply(host, loaded[0], loaded)
    _, exact = predict_twice(model, conditions, second=300)
    for settings in ({"garment_interval": 1.0}, {"deep_every": 2}):
        _, reused = predict_twice(reuse(host, model, **settings), conditions, second=300)
        assert not torch.allclose(reused, exact, rtol=0, atol=1e-4), settings


def test_garment_features_serve_a_fraction_of_the_schedule(host, loaded, conditions, monkeypatch):
    model = reuse(host, apply(host, loaded[0], loaded), garment_interval=0.3)
    timesteps = count_encodings(loaded, monkeypatch)
    sample(model, *conditions, steps=10)
    assert len(timesteps) == 4, timesteps
    assert all(a - b >= 300 for a, b in zip(timesteps, timesteps[1:], strict=False)), timesteps


def test_deep_blocks_run_every_nth_pass(host, loaded, conditions):
    model = reuse(host, apply(host, loaded[0], loaded), deep_every=3)
    runs = count_blocks(model)
    sample(model, *conditions, steps=7)
    every, shallow = list(range(INPUT_BLOCKS)), list(range(FULL_RESOLUTION_INPUTS))
    assert runs == every + shallow * 2 + every + shallow * 2 + every


def test_a_run_begins_without_the_features_of_the_last_one(host, loaded, conditions):
    model = reuse(host, apply(host, loaded[0], loaded), garment_interval=0.5, deep_every=2)
    first = sample(model, *conditions, cfg=1.5, steps=3)
    assert torch.equal(sample(model, *conditions, cfg=1.5, steps=3), first)
    assert "stableviton_reuse" not in model.model_options["transformer_options"]


def test_the_last_reuse_counts(host, loaded, conditions):
    model = apply(host, loaded[0], loaded)
    expected = sample(model, *conditions)
    twice = reuse(host, reuse(host, model, 1.0, 4))
    assert torch.equal(sample(twice, *conditions), expected)


def test_several_garments_keep_features_of_their_own(host, loaded, conditions, monkeypatch):
    twice = apply(host, apply(host, loaded[0], loaded, strength=0.5), loaded, strength=0.5)
    timesteps = count_encodings(loaded, monkeypatch)
    sample(reuse(host, twice, garment_interval=1.0), *conditions, steps=3)
    assert len(timesteps) == 2


def test_residuals_of_a_controlnet_go_to_the_blocks_that_run(host):
    module = host.module("nodes.host.shallow_unet")
    network = host.module("stableviton_core.model.config").NetworkConfig()
    control = {"input": list(range(12)), "middle": [12], "output": list(range(12))}
    limited = module.limit_control(control, network)
    assert limited["input"] == [None] * 9 + [9, 10, 11]
    assert limited["middle"] == []
    assert limited["output"] == [0, 1, 2] + [None] * 9
    assert module.limit_control(None, network) is None


def test_another_packs_model_is_refused(host, loaded):
    from comfy.model_patcher import ModelPatcher

    model = ModelPatcher(torch.nn.Linear(1, 1), torch.device("cpu"), torch.device("cpu"))
    with pytest.raises(ValueError, match="not a StableVITON UNet"):
        reuse(host, model)
