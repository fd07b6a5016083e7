"""A try-on through the server: against our own loop, twice, and pasted back."""

import asyncio

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_latent

from helpers.checkpoints import SMALL, seeded_weights, write_checkpoint
from stableviton_core.images import decode_image, write_image
from stableviton_core.inference.encoding import encode_samples
from stableviton_core.inference.sampling import make_noise_predictor
from stableviton_core.model.checkpoint import split
from stableviton_core.model.tryon_model import TryOnModel
from stableviton_core.model.vae import build_autoencoder, load_ldm
from stableviton_core.plms import plms_timesteps, sample_plms
from stableviton_core.schedule import start_code
from stableviton_core.serving import client
from stableviton_core.serving.graph import load_graph, set_image
from stableviton_core.serving.install import PACK
from stableviton_core.synthetic.draw_garment import generate_garment
from stableviton_core.synthetic.draw_person import generate_person
from stableviton_core.synthetic.renderer import SyntheticSample, render_sample

STEPS = 10
SEED = 3


@pytest.fixture(scope="module")
def sample() -> SyntheticSample:
    rng = np.random.default_rng(2)
    return render_sample(generate_person(rng), generate_garment(rng), 128)


@pytest.fixture(scope="module")
def graph(server, sample, tmp_path_factory) -> dict:
    """The main graph on the small checkpoint and the sample's images, with its latent saved."""
    write_checkpoint(server.base / "models" / "stableviton" / "small.safetensors")
    graph = load_graph(PACK / "workflows" / "api" / "tryon.json")
    nodes = {node["class_type"]: key for key, node in graph.items()}
    graph[nodes["StableVITONLoader"]]["inputs"] |= {
        "ckpt_name": "small.safetensors",
        "weight_dtype": "fp32",
    }
    graph[nodes["StableVITONSchedule"]]["inputs"]["steps"] = STEPS
    graph[nodes["SamplerCustom"]]["inputs"]["noise_seed"] = SEED
    graph["latent"] = {
        "class_type": "SaveLatent",
        "inputs": {"samples": [nodes["SamplerCustom"], 0], "filename_prefix": "tryon"},
    }
    folder = tmp_path_factory.mktemp("images")
    images = {
        "Person": sample.image,
        "Mask": sample.mask,
        "DensePose": sample.densepose,
        "Garment": sample.garment,
    }

    async def upload() -> None:
        async with client.connect(server.url) as session:
            for title, image in images.items():
                path = folder / f"{title}.png"
                write_image(path, image)
                set_image(graph, title, await client.upload_image(session, path))

    asyncio.run(upload())
    return graph


def run(server, graph: dict, fresh: bool = False) -> tuple[torch.Tensor, np.ndarray]:
    """The sampled latent and the result. fresh: nothing is taken from the server's caches."""

    async def action() -> tuple[bytes, bytes]:
        async with client.connect(server.url) as session:
            if fresh:
                await session.post("free", json={"unload_models": True, "free_memory": True})
            outputs = await client.run(session, graph)
            result = next(key for key, node in graph.items() if node["class_type"] == "SaveImage")
            return (
                await client.download(session, outputs["latent"]["latents"][0]),
                await client.download(session, outputs[result]["images"][0]),
            )

    latent, image = asyncio.run(action())
    return load_latent(latent)["latent_tensor"], decode_image(image)


@torch.no_grad()
def sample_with_trainer(sample: SyntheticSample) -> torch.Tensor:
    """The released loop on our own UNet, with diffusers' VAE and transformers' CLIP."""
    components = split(seeded_weights())
    model, autoencoder = TryOnModel(SMALL).eval(), build_autoencoder(SMALL.autoencoder).eval()
    model.load_components(components)
    load_ldm(autoencoder, components["autoencoder"])
    batch = encode_samples(autoencoder, model, [sample])
    noise = torch.randn(batch.person.shape, generator=torch.manual_seed(SEED))
    x = sample_plms(
        make_noise_predictor(model, batch), start_code(batch.person, noise), plms_timesteps(STEPS)
    )
    return x / SMALL.autoencoder.latent_scale


def test_the_graph_samples_the_authors_trajectory(server, graph, sample):
    latent, _ = run(server, graph)
    expected = sample_with_trainer(sample)
    assert (latent - expected).abs().max() / expected.std() <= 1e-3


def test_the_second_queue_equals_the_first(server, graph):
    first, _ = run(server, graph, fresh=True)
    second, _ = run(server, graph, fresh=True)
    assert torch.equal(first, second)


def test_outside_the_mask_the_saved_image_is_the_photo(server, graph, sample):
    _, result = run(server, graph)
    outside = sample.mask == 0
    difference = np.abs(result[outside].astype(int) - sample.image[outside])
    assert difference.max() <= 1, "SaveImage rounds down"
    assert (result[sample.mask == 255] != sample.image[sample.mask == 255]).any()
