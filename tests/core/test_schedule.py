"""Schedule, start and PLMS against the authors' numbers."""

import pytest
import torch

from helpers.golden import error, fill, read_golden
from stableviton_core.image_tensors import make_keep_mask, resize_keep_mask
from stableviton_core.plms import plms_timesteps, sample_plms
from stableviton_core.schedule import alphas_cumprod, start_code


def noise_model(x: torch.Tensor, t: int, context: float) -> torch.Tensor:
    wave = torch.sin(torch.tensor(3 * t / 1000))
    return torch.tanh(0.7 * x + 0.3 * wave) * (0.5 + 0.5 * t / 1000) + 0.1 * context


def predict_with_guidance(x: torch.Tensor, t: int) -> torch.Tensor:
    conditional, unconditional = noise_model(x, t, 1), noise_model(x, t, -1)
    return unconditional + 5 * (conditional - unconditional)


@pytest.mark.parametrize("steps", [50, 20, 10])
def test_plms_is_the_authors(steps):
    golden, x = read_golden("full"), fill("input/plms/x", (1, 4, 16, 12))
    timesteps = plms_timesteps(steps)
    assert sorted(timesteps) == sorted(golden[f"timesteps/{steps}"].tolist())
    plain = sample_plms(lambda x, t: noise_model(x, t, 0), x, timesteps)
    assert (plain - golden[f"plms/{steps}"]).abs().max() <= 1e-4
    assert (
        sample_plms(predict_with_guidance, x, timesteps) - golden[f"plms_cfg5/{steps}"]
    ).abs().max() <= 1e-4


def test_plms_steps_that_do_not_divide_1000():
    assert plms_timesteps(30)[0] == 991 and len(plms_timesteps(30)) == 31
    assert plms_timesteps(999)[0] == 999
    assert plms_timesteps(1) == [1]
    with pytest.raises(ValueError, match="got 0"):
        plms_timesteps(0)


def test_plms_reports_every_step():
    seen = []
    x = fill("input/plms/x", (1, 4, 16, 12))
    sample_plms(lambda x, t: x, x, plms_timesteps(10), lambda step, *_: seen.append(step))
    assert seen == list(range(10))


def test_schedule_and_start_are_the_authors():
    golden = read_golden("full")
    assert error(alphas_cumprod(), golden["alphas_cumprod"]) <= 1e-6
    z, noise = fill("input/start/z", (1, 4, 16, 12)), fill("input/start/noise", (1, 4, 16, 12))
    assert error(start_code(z, noise), golden["start_code"]) <= 1e-4


def test_latent_mask_is_the_authors():
    change = torch.zeros(1, 1, 512, 384)
    change[:, :, 101:333, 77:301] = 1
    mask = resize_keep_mask(make_keep_mask(change), (64, 48))
    assert error(mask, read_golden("full")["mask/latent"].reshape(mask.shape)) <= 1e-4
    assert make_keep_mask(torch.tensor([127 / 255, 128 / 255])).tolist() == [1, 0]


def test_the_schedule_serves_gradients_whoever_asked_first():
    alphas_cumprod.cache_clear()
    with torch.inference_mode():
        alphas_cumprod()
    assert not alphas_cumprod().is_inference()
