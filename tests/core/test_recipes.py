"""The settings of published trainings in training/configs: each parses, has the released
hyperparameters, builds its network at full size, and trains a small one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.training import HEIGHT, WIDTH, write_inputs
from stableviton_core import training
from stableviton_core.__main__ import parse_arguments
from stableviton_core.model.config import ModelConfig, NetworkConfig
from stableviton_core.model.tryon_model import TryOnModel
from stableviton_core.model.vae import build_autoencoder
from stableviton_core.training.checkpointing import WEIGHTS
from stableviton_core.training.config import TrainConfig, VaeConfig
from stableviton_core.training.finetune_vae import finetune_vae
from stableviton_core.training.losses import list_recorded_blocks
from stableviton_core.training.trainable_parameters import choose_trainable
from stableviton_core.training.trainer import train

CONFIGS = Path(training.__file__).parent / "configs"
TRAININGS = ("vitonhd", "vitonhd_atv", "vitonhd_1024", "dresscode")
RELEASED = {
    "learning_rate": 1e-4,
    "cond_drop_prob": 0.2,
    "cond_drop_per": "batch",
    "mixed_precision": "fp16",
    "lr_scheduler": "constant",
    "optimizer": "adamw",
    "loss_weighting": "none",
    "augmentation": True,
    "train_patterns": TrainConfig.train_patterns,
    "atv_weight": 0.001,
    "validation_sampler": "ddim",
    "num_inference_steps": 50,
    "validation_guidance": 5.0,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder, count=2)
    return folder


def parse(command: str, name: str, inputs: Path, output: Path) -> TrainConfig | VaeConfig:
    arguments = [command, "--config", CONFIGS / f"{name}.yaml", "--data", inputs / "data"]
    arguments += ["--init", inputs / "tiny.safetensors", "--output", output]
    return parse_arguments(list(map(str, arguments)))[1]["config"]


def test_every_file_is_tested():
    assert {file.stem for file in CONFIGS.glob("*.yaml")} == {*TRAININGS, "vae"}


@pytest.mark.parametrize("name", TRAININGS)
def test_hyperparameters_are_the_released_ones(name, inputs, tmp_path):
    config = parse("train", name, inputs, tmp_path)
    assert {key: getattr(config, key) for key in RELEASED} == RELEASED
    assert config.train_batch_size * config.gradient_accumulation_steps == 32
    assert (config.height, config.width) == ((1024, 768) if name == "vitonhd_1024" else (512, 384))
    blocks = list_recorded_blocks(config, NetworkConfig())
    assert blocks == ([4] if name == "vitonhd_atv" else [])


@pytest.mark.parametrize("name", TRAININGS)
def test_the_full_network_has_the_released_trained_parameters(name, inputs, tmp_path):
    config = parse("train", name, inputs, tmp_path)
    with torch.device("meta"):
        model = TryOnModel(ModelConfig())
    counts = choose_trainable(model, config.train_patterns, config.freeze_patterns)
    assert counts["unet"] == (0, 859_546_884) and counts["clip"][0] == 0
    assert counts["zero_cross_attention"] == (179_778_560, 179_778_560)
    assert counts["encoder"] == (174_688_640, 348_750_720)  # the others are never run
    assert counts["image_projector"][0] == 787_968  # proj_out, learnable_vector
    assert not model.network.unet.trains_encoder()


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("name", TRAININGS)
def test_a_small_network_trains_with_it(name, inputs, tmp_path):
    config = replace(
        parse("train", name, inputs, tmp_path / "run"),
        **{"height": HEIGHT, "width": WIDTH, "train_batch_size": 1, "max_train_steps": 2},
        **{"gradient_accumulation_steps": 2, "mixed_precision": "bf16", "num_inference_steps": 2},
        **{"dataloader_num_workers": 0, "num_validation_images": 1},
    )
    folder = train(config)
    assert (folder / WEIGHTS).is_file() and (tmp_path / "run" / "validation.png").is_file()


@pytest.mark.usefixtures("fresh_accelerate")
def test_the_vae_recipe_trains(inputs, tmp_path):
    config = parse("finetune-vae", "vae", inputs, tmp_path / "vae.safetensors")
    assert (config.l1_weight, config.lpips_weight, config.kl_weight) == (1, 1, 1e-6)
    with torch.device("meta"):
        autoencoder = build_autoencoder(ModelConfig().autoencoder)
    decoder = (autoencoder.decoder, autoencoder.post_quant_conv)
    assert sum(p.numel() for part in decoder for p in part.parameters()) == 49_490_199
    small = {"height": HEIGHT, "width": WIDTH, "train_batch_size": 1, "max_train_steps": 2}
    finetune_vae(replace(config, **small, mixed_precision="no", lpips_weight=0.0))
    assert (tmp_path / "vae.safetensors").is_file()
