"""The recipe of the recipe checkpoint, with two steps of each training."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stableviton_core.model.checkpoint import config_from_metadata, read_weights, split
from stableviton_core.synthetic import recipe, toy_autoencoder
from stableviton_core.training.pretrained import load_model

SHIPPED = Path(__file__).resolve().parents[2] / "recipe" / recipe.CHECKPOINT


@pytest.fixture
def folder(tmp_path) -> Path:
    """With the shipped checkpoint's autoencoder, whose training takes half an hour."""
    weights, metadata = read_weights(SHIPPED)
    scale = config_from_metadata(metadata).autoencoder.latent_scale
    own = {key: value.float() for key, value in split(weights)["autoencoder"].items()}
    file = tmp_path / toy_autoencoder.FILE
    save_file(own, file, {toy_autoencoder.SCALE_KEY: repr(scale)})
    return tmp_path


def test_the_recipe_runs_and_goes_on(folder, monkeypatch):
    real = recipe.stage_config

    def short(*arguments):
        return replace(real(*arguments), max_train_steps=2, train_batch_size=1, validation_steps=0)

    monkeypatch.setattr(recipe, "stage_config", short)
    monkeypatch.setattr(recipe, "STAGES", [replace(stage, people=1) for stage in recipe.STAGES])
    monkeypatch.setattr(recipe, "GARMENTS_EACH", 1)
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
