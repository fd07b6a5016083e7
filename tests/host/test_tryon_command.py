"""`stableviton tryon` against the nodes: the same trajectory, the same images."""

from dataclasses import replace

import comfy.sample
import pytest
import torch

from helpers.golden import error
from helpers.host import apply, conditioning
from stableviton_core.dataset.samples import Sample, load_sample
from stableviton_core.image_tensors import to_arrays, to_images, to_masks
from stableviton_core.images import read_image
from stableviton_core.inference import command
from stableviton_core.inference.check_run import check_run, result_file
from stableviton_core.inference.config import TryOnConfig
from stableviton_core.inference.sampling import draw_noise
from stableviton_core.inference.tryons import load_networks, sample_latents
from stableviton_core.model.config import AutoencoderConfig
from stableviton_core.synthetic.write_dataset import write_dataset

HEIGHT, WIDTH, STEPS = 128, 96, 5
SCALE = AutoencoderConfig.latent_scale


@pytest.fixture(scope="module")
def config(host, small_checkpoint, tmp_path_factory) -> TryOnConfig:
    """Three unpaired pairs in one batch."""
    folder = tmp_path_factory.mktemp("tryon")
    write_dataset(folder / "data", 1, 3, 1, HEIGHT, seed=4)
    return TryOnConfig(
        checkpoint=host.base / "models" / "stableviton" / small_checkpoint,
        output=folder / "results",
        data=folder / "data",
        unpaired=True,
        steps=STEPS,
        height=HEIGHT,
        width=WIDTH,
        batch_size=3,
        format="png",
        device="cpu",
    )


@pytest.fixture(scope="module")
def names(config) -> list[str]:
    return [pair.name for pair in check_run(config)]


@pytest.fixture(scope="module")
def samples(config) -> list[Sample]:
    return [load_sample(pair, HEIGHT, WIDTH) for pair in check_run(config)]


@pytest.fixture(scope="module")
def latents_of_the_nodes(host, loaded, samples, names) -> torch.Tensor:
    """Unscaled latents, sampled by StableVITONPLMS with the noise of `tryon`."""
    images = {
        socket: to_images([getattr(sample, field) for sample in samples])
        for socket, field in (
            ("person", "image"),
            ("densepose", "densepose"),
            ("garment", "garment"),
            ("agnostic", "agnostic"),
        )
    }
    mask = to_masks([sample.mask / 255 for sample in samples])
    positive, negative, latent = conditioning(host, loaded, mask=mask, **images)
    model = apply(host, loaded[0], loaded)
    (sampler,), (sigmas,) = (
        host.node("StableVITONPLMS"),
        host.node("StableVITONSchedule", model=model, steps=STEPS),
    )
    start = latent["samples"]
    noise = draw_noise(names, start.shape[1:], seed=0)
    with torch.inference_mode():
        return comfy.sample.sample_custom(
            model, noise, 1.0, sampler, sigmas, positive, negative, start, disable_pbar=True
        )


def test_tryon_samples_the_trajectory_of_the_nodes(config, samples, names, latents_of_the_nodes):
    networks = load_networks(config)
    together = sample_latents(networks, samples, names, config)
    alone = torch.cat(
        [sample_latents(networks, [samples[i]], [names[i]], config) for i in range(3)]
    )
    assert error(together / SCALE, latents_of_the_nodes) <= 1e-3
    assert error(alone, together) <= 1e-3


def test_the_files_are_the_nodes_images(host, loaded, config, latents_of_the_nodes):
    assert command.run(config) == 0
    parts = replace(config, output=config.output / "parts", batch_size=1)
    for index in (1, 2):
        assert command.run(replace(parts, shard=f"{index}/2")) == 0
    (images,) = host.node("VAEDecode", samples={"samples": latents_of_the_nodes}, vae=loaded[3])
    for pair, expected in zip(check_run(config), to_arrays(images), strict=True):
        for run in (config, parts):
            result = read_image(result_file(pair, run)).astype(int)
            assert abs(result - expected).max() <= 1, "rounding"
