"""A training run that takes seconds: a tiny network on a few tiny paper synthetic."""

from dataclasses import replace
from pathlib import Path

from stableviton_core.model.config import ModelConfig, NetworkConfig
from stableviton_core.synthetic.write_dataset import write_dataset
from stableviton_core.training.config import TrainConfig

from .checkpoints import SMALL, write_checkpoint

HEIGHT, WIDTH = 64, 48

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
    """Four steps without sheets, in the released way."""
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
