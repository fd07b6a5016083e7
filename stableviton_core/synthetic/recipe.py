"""Trains the demo checkpoint from nothing: an autoencoder, then the stages of recipe.yaml."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from ..model.checkpoint import LICENSE_KEY, join
from ..model.config import ClipConfig, ModelConfig, NetworkConfig
from ..model.pretrained import save_weights
from ..model.tryon_model import TryOnModel
from ..model.vae import build_autoencoder, load_ldm, to_ldm
from ..training.checkpointing import WEIGHTS, list_checkpoints
from ..training.config import TrainConfig
from ..training.initialization import copy_encoder, zero_layer
from ..training.trainer import train
from . import toy_autoencoder
from .shapes import ASPECT
from .warm_start import initialize_denoiser
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
RECIPE = Path(__file__).with_name("recipe.yaml")
CHECKPOINT = "stableviton-demo.safetensors"


@dataclass(frozen=True)
class Stage:
    """A training. data: arguments of `write_dataset`; settings: of `TrainConfig`."""

    name: str
    data: dict[str, Any]
    settings: dict[str, Any]

    def make_config(self, data: Path, init: Path, output: Path) -> TrainConfig:
        """The configuration of this stage, which resumes where `output` has a checkpoint."""
        height = self.data["height"]
        resume = "latest" if list_checkpoints(output) else None
        return TrainConfig(
            data=data,
            init=init,
            output=output,
            height=height,
            width=int(height * ASPECT),
            resume_from_checkpoint=resume,
            **self.settings,
        )


def read_stages() -> list[Stage]:
    """The stages of recipe.yaml in order, each with the shared data and settings."""
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    return [
        Stage(
            stage["name"],
            _freeze_lists(recipe["data"] | stage["data"]),
            _freeze_lists(recipe["settings"] | stage["settings"]),
        )
        for stage in recipe["stages"]
    ]


def _freeze_lists(entries: dict) -> dict:
    """Lists as tuples, as configurations have them."""
    return {key: tuple(v) if isinstance(v, list) else v for key, v in entries.items()}


def train_synthetic(output: Path) -> None:
    """Write `stableviton-demo.safetensors` into a folder. Run again after an interruption, it
    resumes: finished data sets and stages in the folder are used."""
    output.mkdir(parents=True, exist_ok=True)
    if not (output / toy_autoencoder.FILE).exists():
        toy_autoencoder.write_autoencoder(output)
    checkpoint = output / "start.safetensors"
    if not checkpoint.exists():
        write_initial_checkpoint(checkpoint, output / toy_autoencoder.FILE)
    for stage in read_stages():
        data = output / f"data-{stage.name}"
        if not (data / "test_pairs.txt").exists():  # the last file of a data set
            shutil.rmtree(data, ignore_errors=True)
            write_dataset(data, **stage.data)
        folder = train(stage.make_config(data, checkpoint, output / f"run-{stage.name}"))
        checkpoint = folder / WEIGHTS
    shutil.copy(checkpoint, output / CHECKPOINT)


def write_initial_checkpoint(file: Path, autoencoder_file: Path) -> None:
    """Write the checkpoint that the first stage starts from."""
    torch.manual_seed(0)
    with safe_open(autoencoder_file, framework="pt") as opened:
        scale = float(opened.metadata()[toy_autoencoder.SCALE_KEY])
    config = ModelConfig(
        NETWORK, CLIP, replace(toy_autoencoder.CONFIG, latent_scale=scale), mapper_layers=1
    )
    autoencoder = build_autoencoder(config.autoencoder)
    load_ldm(autoencoder, load_file(autoencoder_file))
    model = TryOnModel(config)
    copy_encoder(model.network)
    initialize_denoiser(model.network.unet)
    for convolution in model.network.zero_cross_attention.warp_zero_convs:
        zero_layer(convolution)
    weights = join(model.components() | {"autoencoder": to_ldm(autoencoder)})
    save_weights(file, weights, config, "fp32", {LICENSE_KEY: "Apache-2.0"})
