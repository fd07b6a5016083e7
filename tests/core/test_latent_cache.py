"""Cached latents are used exactly when nothing that they depend on has changed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.training import tiny_config, write_inputs
from stableviton_core.dataset.pairs import read_pairs
from stableviton_core.errors import StableVITONError
from stableviton_core.inference.encoding import Latents
from stableviton_core.model.pretrained import load_model
from stableviton_core.training.latent_cache import LatentCache, compute_cache_keys


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder, count=2)
    return folder


def keys(inputs, model, autoencoder, **changes) -> list[list[str]]:
    config = tiny_config(inputs, inputs / "run", **changes)
    return compute_cache_keys(
        read_pairs(config.data, "train", paired=True), config, model, autoencoder
    )


def test_keys_change_with_what_latents_depend_on(inputs):
    model, autoencoder, _ = load_model(inputs / "tiny.safetensors")
    model.requires_grad_(False)
    first = keys(inputs, model, autoencoder)
    assert keys(inputs, model, autoencoder, learning_rate=1.0) == first
    assert len({key for variants in first for key in variants}) == 4
    others = [
        keys(inputs, model, autoencoder, **changes)
        for changes in ({"height": 32, "width": 24}, {"seed": 5}, {"mixed_precision": "bf16"})
    ]
    autoencoder.register_to_config(scaling_factor=0.5)
    others.append(keys(inputs, model, autoencoder))
    with torch.no_grad():
        autoencoder.encoder.conv_in.bias += 1
    others.append(keys(inputs, model, autoencoder))
    with torch.no_grad():
        model.clip.state_dict()["embeddings.class_embedding"][0] += 1
    others.append(keys(inputs, model, autoencoder))
    file = inputs / "data/train/cloth/00000_00.png"
    Image.fromarray(255 - np.array(Image.open(file))).save(file)
    changed = keys(inputs, model, autoencoder)
    assert changed[1] == others[-1][1], "the other pair is the same"
    others.append(changed)
    seen = [variants[0][0] for variants in (first, *others)]
    assert len(set(seen)) == len(seen)


def test_entries_come_back_and_damage_is_named(tmp_path):
    cache = LatentCache(tmp_path)
    latents = Latents(*(torch.randn(1, 4, 2, 2) for _ in range(4)), keep=torch.ones(1, 1, 2, 2))
    cache.add({"one": latents, "two": replace(latents, person=latents.garment)})
    again = LatentCache(tmp_path)
    assert "one" in again and "three" not in again
    assert torch.equal(again["two"]["person"], latents.garment[0])
    assert set(again["one"]) == {"person", "agnostic", "densepose", "garment", "keep"}
    (shard,) = tmp_path.glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:20])
    with pytest.raises(StableVITONError, match="is damaged .* Delete it"):
        LatentCache(tmp_path)
