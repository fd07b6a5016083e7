"""The demo checkpoint from nothing: an autoencoder, then the network, on paper synthetic."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ..model.checkpoint import LICENSE_KEY, join
from ..model.config import ClipConfig, ModelConfig, NetworkConfig
from ..training import checkpointing
from ..training.config import TrainConfig, parse_config
from ..training.initialization import copy_encoder, zero_layer
from ..training.model import TryOnModel
from ..training.pretrained import save_weights
from ..training.trainer import train
from ..training.vae import build_autoencoder, load_ldm, to_ldm
from . import PATCHWORK, PATTERNS, toy_autoencoder
from .warm_start import start_from_denoiser
from .write_dataset import write_dataset

NETWORK = NetworkConfig(
    model_channels=96, channel_mult=(1, 1, 1), num_res_blocks=1, num_heads=4, context_dim=128
)
CLIP = ClipConfig(
    hidden_size=128,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=512,
    patch_size=32,
)
CONFIGS = Path(__file__).parent / "configs"
SHARED = "demo.yaml"
GARMENTS_EACH = 4  # that each person wears
CHECKPOINT = "stableviton-demo.safetensors"


@dataclass(frozen=True)
class Stage:
    """A training on paper synthetic. name: of its file in CONFIGS, which comes on top of what all of
    them share; seed: of its people; patterns: of their garments, as in `synthetic.random_garment`."""

    name: str
    height: int
    people: int
    seed: int
    patterns: tuple[str, ...] = PATTERNS


STAGES = (
    Stage("demo-128", 128, 500, 128),
    Stage("demo-192", 192, 250, 192),
    Stage("demo-192-long", 192, 500, 1192),
    Stage("demo-patchwork", 128, 300, 128128, (*PATTERNS[1:], *[PATCHWORK] * 10)),
    Stage("demo-256", 256, 250, 256256, (*PATTERNS, PATCHWORK)),
    Stage("demo-garment_coordinates", 256, 400, 256512, (*PATTERNS, *PATTERNS[1:], PATCHWORK)),
)


def train_synthetic(output: Path) -> None:
    """Writes `stableviton-demo.safetensors` into a folder. Run again after an interruption, it
    goes on: what an earlier run finished there is used."""
    output.mkdir(parents=True, exist_ok=True)
    if not (output / toy_autoencoder.FILE).exists():
        toy_autoencoder.train(output)
    checkpoint = output / "start.safetensors"
    if not checkpoint.exists():
        write_start(checkpoint, output / toy_autoencoder.FILE)
    for stage in STAGES:
        data = output / f"dolls-{stage.name}"
        if not (data / "test_pairs.txt").exists():
            shutil.rmtree(data, ignore_errors=True)
            write_dataset(
                data, stage.people, 6, GARMENTS_EACH, stage.height, stage.seed, stage.patterns
            )
        folder = train(stage_config(stage, data, checkpoint, output / f"run-{stage.name}"))
        checkpoint = folder / checkpointing.WEIGHTS
    shutil.copy(checkpoint, output / CHECKPOINT)


def stage_config(stage: Stage, data: Path, init: Path, output: Path) -> TrainConfig:
    files = [CONFIGS / SHARED, CONFIGS / f"{stage.name}.yaml"]
    paths = {"data": data, "init": init, "output": output}
    flags = [f"--config={file}" for file in files] + [f"--{n}={path}" for n, path in paths.items()]
    config = parse_config(flags, TrainConfig, "train")
    resumed = "latest" if checkpointing.list_checkpoints(output) else None
    return replace(config, resume_from_checkpoint=resumed)


def write_start(file: Path, autoencoder_file: Path) -> None:
    """The checkpoint that the first training begins with."""
    torch.manual_seed(0)
    with safe_open(autoencoder_file, framework="pt") as opened:
        scale = float(opened.metadata()[toy_autoencoder.SCALE_KEY])
    config = ModelConfig(
        NETWORK, CLIP, replace(toy_autoencoder.AUTOENCODER, latent_scale=scale), mapper_layers=1
    )
    autoencoder = build_autoencoder(config.autoencoder)
    load_ldm(autoencoder, load_file(autoencoder_file))
    model = TryOnModel(config)
    copy_encoder(model.network)
    start_from_denoiser(model.network.unet)
    for convolution in model.network.zero_cross_attention.warp_zero_convs:
        zero_layer(convolution)
    weights = join(model.components() | {"autoencoder": to_ldm(autoencoder)})
    save_weights(file, weights, config, "fp32", {LICENSE_KEY: "Apache-2.0"})
