"""The authors' sampling in ComfyUI."""

import comfy.model_management
import comfy.sample
import pytest
import torch

from helpers.host import apply, conditioning, make_images
from stableviton_core.plms import plms_timesteps
from stableviton_core.schedule import alphas_cumprod


def test_schedule_holds_the_released_timesteps(host, loaded):
    model = loaded[0]
    (sigmas,) = host.node("StableVITONSchedule", model=model, steps=50)
    expected = alphas_cumprod()[torch.tensor([*plms_timesteps(50), 0])]
    assert torch.allclose(sigmas, ((1 - expected) / expected).sqrt().float(), rtol=1e-5)
    assert model.model.model_sampling.timestep(sigmas).tolist() == [*plms_timesteps(50), 0]
    assert sigmas[-1].item() == pytest.approx(0.0292, abs=1e-4)


def test_plms_is_interrupted(host, loaded):
    positive, negative, latent = conditioning(host, loaded, **make_images())
    model = apply(host, loaded[0], loaded)
    (sampler,), (sigmas,) = (
        host.node("StableVITONPLMS"),
        host.node("StableVITONSchedule", model=model, steps=5),
    )
    steps = []

    def interrupt(step: int, *_) -> None:
        steps.append(step)
        comfy.model_management.interrupt_current_processing()

    noise = comfy.sample.prepare_noise(latent["samples"], 1)
    with torch.inference_mode(), pytest.raises(comfy.model_management.InterruptProcessingException):
        comfy.sample.sample_custom(
            model,
            noise,
            1.0,
            sampler,
            sigmas,
            positive,
            negative,
            latent["samples"],
            callback=interrupt,
            disable_pbar=True,
        )
    assert steps == [0]
