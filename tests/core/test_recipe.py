"""The recipe of the demo checkpoint, with two steps of each stage."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stableviton_core.model.checkpoint import split
from stableviton_core.model.config_metadata import config_from_metadata
from stableviton_core.model.pretrained import load_model
from stableviton_core.model.weight_reader import read_weights
from stableviton_core.synthetic import recipe, toy_autoencoder

SHIPPED = Path(__file__).resolve().parents[2] / "demo" / recipe.CHECKPOINT
COMPARED = (
    *("height", "width", "seed", "max_train_steps", "learning_rate", "lr_scheduler"),
    *("lr_warmup_steps", "train_batch_size", "use_ema", "ema_decay", "train_patterns"),
    *("freeze_patterns", "augmentation", "cond_drop_prob", "loss_weighting"),
    *("correspondence_blocks", "correspondence_weight"),
)


@pytest.fixture
def folder(tmp_path) -> Path:
    """With the autoencoder of the shipped checkpoint, whose training takes half an hour."""
    weights, metadata = read_weights(SHIPPED)
    scale = config_from_metadata(metadata).autoencoder.latent_scale
    components = split(weights)
    autoencoder = {key: value.float() for key, value in components["autoencoder"].items()}
    save_file(
        autoencoder, tmp_path / toy_autoencoder.FILE, {toy_autoencoder.SCALE_KEY: repr(scale)}
    )
    return tmp_path


def test_the_last_stage_is_the_training_of_the_shipped_checkpoint(tmp_path):
    _, metadata = read_weights(SHIPPED)
    shipped = json.loads(metadata["stableviton.training"])
    stages = recipe.read_stages()
    assert [stage.name.removeprefix("demo-") for stage in stages] == [
        *("128", "192", "192-long", "patchwork", "256", "correspondence")
    ]
    config = stages[-1].make_config(tmp_path, tmp_path, tmp_path)
    for name in COMPARED:
        value = shipped[name]
        expected = tuple(value) if isinstance(value, list) else value
        assert getattr(config, name) == expected, name


def test_the_recipe_runs_and_goes_on(folder, monkeypatch):
    short = {"max_train_steps": 2, "train_batch_size": 1, "validation_steps": 0}
    stages = [
        replace(
            stage, data=stage.data | {"count": 1, "garments": 1}, settings=stage.settings | short
        )
        for stage in recipe.read_stages()
    ]
    monkeypatch.setattr(recipe, "read_stages", lambda: stages)
    recipe.train_synthetic(folder)
    file = folder / recipe.CHECKPOINT
    model, autoencoder, license = load_model(file)
    shipped, original, _ = load_model(SHIPPED)
    assert model.config == shipped.config and license == "Apache-2.0"
    assert torch.equal(
        autoencoder.decoder.conv_in.weight, load_model(SHIPPED)[1].decoder.conv_in.weight
    )
    assert file.stat().st_size <= 40e6
    start, _, _ = load_model(folder / "start.safetensors")
    frozen, trained = "unet.time_embed.0.weight", "unet.output_blocks.5.0.out_layers.3.weight"
    before, after = (m.network.state_dict() for m in (start, model))
    assert torch.equal(before[frozen].half(), after[frozen].half())
    assert not torch.equal(before[trained].half(), after[trained].half())
    first = file.read_bytes()
    recipe.train_synthetic(folder)
    assert file.read_bytes() == first, "what is finished is used"
