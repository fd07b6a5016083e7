"""A training run that takes seconds: a tiny network on a few small synthetic samples."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

from stableviton_core.model.config import ModelConfig, NetworkConfig
from stableviton_core.synthetic.write_dataset import write_dataset
from stableviton_core.training.checkpointing import WEIGHTS
from stableviton_core.training.config import TrainConfig

from .checkpoints import SMALL, write_checkpoint

HEIGHT, WIDTH = 64, 48

# a step of Adam that is proportional to the gradient
PROPORTIONAL = {
    "max_train_steps": 1,
    "adam_epsilon": 1.0,
    "learning_rate": 100.0,
    "max_grad_norm": 1e9,
}

TINY: ModelConfig = replace(
    SMALL,
    network=NetworkConfig(
        model_channels=32,
        channel_mult=(1, 1),
        num_res_blocks=1,
        attention=(1, 2),
        num_heads=2,
        context_dim=32,
    ),
)


def write_inputs(folder: Path, count: int = 6) -> None:
    """`folder/data` and `folder/tiny.safetensors`."""
    write_dataset(folder / "data", count, 2, 1, HEIGHT, seed=0)
    write_checkpoint(folder / "tiny.safetensors", config=TINY)


def tiny_config(inputs: Path, output: Path, **changes: object) -> TrainConfig:
    """Four steps without validation, other settings as released."""
    config = TrainConfig(
        data=inputs / "data",
        init=inputs / "tiny.safetensors",
        output=output,
        height=HEIGHT,
        width=WIDTH,
        train_batch_size=2,
        max_train_steps=4,
        checkpointing_steps=2,
        learning_rate=1e-3,
        cache_variants=2,
        cache_dir=inputs / "latents",
        save_dtype="fp32",
        atv_blocks=(0,),
        validation_steps=0,
    )
    return replace(config, **changes)


def train_command(config: TrainConfig) -> list[str]:
    """The command line of a configuration, which is written beside its output."""
    file = config.output.with_suffix(".yaml")
    entries = {key: value for key, value in asdict(config).items() if value is not None}
    file.write_text(yaml.safe_dump(json.loads(json.dumps(entries, default=str))))
    return [sys.executable, "-m", "stableviton_core", "train", "--config", str(file)]


def equal_weights(first: Path, second: Path) -> bool:
    """Whether two files hold bit-identical tensors."""
    one, two = load_file(first), load_file(second)
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def same_step(inputs: Path, *folders: Path) -> bool:
    """Whether two runs changed the weights alike, up to rounding."""
    key = "model.diffusion_model.warp_zero_convs.0.weight"
    before = load_file(inputs / "tiny.safetensors")[key]
    one, two = (load_file(folder / WEIGHTS)[key] - before for folder in folders)
    assert one.abs().max() > 1e-4
    return bool((one - two).abs().max() <= 1e-3 * one.abs().max())
