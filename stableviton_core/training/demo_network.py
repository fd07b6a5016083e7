"""The demo checkpoint's second half: the network, on latents of paper dolls."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from ..checkpoint import config_to_metadata, join, split
from ..config import AutoencoderConfig, ClipConfig, ModelConfig, NetworkConfig
from . import dolls
from .autoencoder import build_autoencoder, load_ldm, to_ldm
from .demo_autoencoder import AUTOENCODER
from .latents import decode, encode_dolls
from .loop import Training, train
from .model import TryOnModel
from .sample import sheet, try_on
from .start import copy_encoder, zero
from .start_denoiser import start_from_denoiser

NETWORK = NetworkConfig(base_width=96, multipliers=(1, 1, 1), blocks=1, heads=4, context_width=128)
CLIP = ClipConfig(width=128, layers=3, heads=4, intermediate=512, patch=32)


@dataclass(frozen=True)
class Phase:
    """Training on `people` dolls of one height, each in GARMENTS_EACH garments."""

    height: int
    people: int
    training: Training


GARMENTS_EACH = 4
UNSEEN = 1_000_000  # seed of the persons that no training sees
SHEET_EVERY = 500
CHECKPOINT = "stableviton-demo.safetensors"
SMALL = Training(
    steps=6000, batch=8, learning_rate=1e-3, warmup=50, unconditional=0.05, velocity=True
)
PHASES = (
    Phase(128, 500, SMALL),
    Phase(192, 400, replace(SMALL, steps=4500, learning_rate=7e-4, seed=1)),
)


def load_autoencoder(file: Path) -> tuple[AutoencoderKL, AutoencoderConfig]:
    with safe_open(file, framework="pt") as opened:
        scale = float(opened.metadata()["latent_scale"])
    config = replace(AUTOENCODER, latent_scale=scale)
    autoencoder = build_autoencoder(config)
    load_ldm(autoencoder, load_file(file))
    return autoencoder.eval(), config


def random_dolls(people: int, garments: int, height: int, seed: int) -> list[list[dolls.Doll]]:
    """Dolls by person; every person in other garments."""
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(people):
        person = dolls.random_person(rng)
        drawn.append(
            [dolls.draw(person, dolls.random_garment(rng), height) for _ in range(garments)]
        )
    return drawn


def save_checkpoint(
    file: Path, model: TryOnModel, autoencoder: AutoencoderKL, config: ModelConfig
) -> None:
    """fp16, with the configuration in the metadata; written under another name, then renamed."""
    weights = join(model.parts() | {"autoencoder": to_ldm(autoencoder)})
    half = {key: value.half().contiguous() for key, value in weights.items()}
    partial = file.with_suffix(".partial")
    save_file(half, partial, config_to_metadata(config) | {"modelspec.license": "Apache-2.0"})
    partial.replace(file)


def train_network(output: Path, resume: bool = False) -> None:
    """Writes `stableviton-demo.safetensors` and sheets of unseen pairs, from
    `autoencoder.safetensors` in the same folder. resume: run the last phase again on the
    checkpoint that is there."""
    torch.manual_seed(0)
    autoencoder, autoencoder_config = load_autoencoder(output / "autoencoder.safetensors")
    config = ModelConfig(NETWORK, CLIP, autoencoder_config, mapper_layers=1)
    model = TryOnModel(config)
    copy_encoder(model.network)
    start_from_denoiser(model.network.trunk)
    for conv in model.network.warp.warp_zero_convs:
        zero(conv)
    if resume:
        model.load_parts(split(load_file(output / CHECKPOINT)))
    for phase in PHASES[-1:] if resume else PHASES:
        _run_phase(output, phase, model, autoencoder, config)


def _run_phase(
    output: Path, phase: Phase, model: TryOnModel, autoencoder: AutoencoderKL, config: ModelConfig
) -> None:
    seed, height = phase.training.seed, phase.height
    data = encode_dolls(autoencoder, random_dolls(phase.people, GARMENTS_EACH, height, seed))
    # Unseen persons: each wears the first of two garments and is asked to wear the second.
    unseen = random_dolls(6, 2, height, seed=UNSEEN)
    asked = encode_dolls(autoencoder, unseen)[1::2]
    worn = np.stack([wearing.image for wearing, _ in unseen])
    truth = np.stack([wanted.image for _, wanted in unseen])
    smooth = 1.0
    with tqdm(total=phase.training.steps, desc=f"network at {height}", mininterval=10) as bar:

        def report(step: int, loss: float, average: EMAModel) -> None:
            nonlocal smooth
            smooth += (loss - smooth) * 0.02
            bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
            bar.update()
            if (step + 1) % SHEET_EVERY == 0 or step + 1 == phase.training.steps:
                with averaged(average, model):
                    save_checkpoint(output / CHECKPOINT, model, autoencoder, config)
                    results = decode(autoencoder, try_on(model, asked))
                picture = sheet(asked.garment_image.numpy(), worn, results, truth)
                name = f"sheet-{height}-{step + 1:05d}.png"
                cv2.imwrite(str(output / name), picture[..., ::-1])  # RGB -> BGR

        train(model, data, phase.training, report)


@contextmanager
def averaged(average: EMAModel, model: TryOnModel) -> Iterator[None]:
    """The model with its averaged weights, for a while, in evaluation mode."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    average.store(parameters)
    average.copy_to(parameters)
    model.eval()
    yield
    average.restore(parameters)
    model.train()
