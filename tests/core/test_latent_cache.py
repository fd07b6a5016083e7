"""Cached latents are used exactly when nothing that they depend on has changed."""

import re
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
from stableviton_core.training import latent_cache
from stableviton_core.training.latent_cache import LatentCache, compute_cache_keys
from stableviton_core.training.trainer import train


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


def test_images_are_small_and_come_back_bit_for_bit(tmp_path):
    """A warped mask and garment coordinates of 512 x 384: 0.8 MB as they are."""
    rows, columns = np.mgrid[:512, :384]
    inside = (rows - 256) ** 2 + (columns - 192) ** 2 < 120**2
    coordinates = np.dstack([columns * inside // 2, rows * inside // 3, 255 * inside])
    latents = Latents(
        *(torch.randn(1, 4, 64, 48) for _ in range(4)),
        keep=torch.ones(1, 1, 64, 48),
        warped_mask=torch.from_numpy(inside.astype(np.uint8))[None],
        garment_coordinates=torch.from_numpy(coordinates.astype(np.uint8))[None],
    )
    LatentCache(tmp_path).add({"one": latents})
    entry = LatentCache(tmp_path)["one"]
    for name, value in latents.tensors().items():
        assert entry[name].dtype == value.dtype and torch.equal(entry[name], value[0]), name
    (shard,) = tmp_path.glob("*.safetensors")
    floats = sum(v.numel() * 4 for v in latents.tensors().values() if v.is_floating_point())
    assert shard.stat().st_size < floats + 50_000


def test_weights_rounded_to_half_precision_keep_the_keys(inputs):
    """The second phase starts from a checkpoint in half precision."""
    model, autoencoder, _ = load_model(inputs / "tiny.safetensors")
    model.requires_grad_(False)
    first = keys(inputs, model, autoencoder)
    autoencoder.half().float()
    model.clip.half().float()
    assert keys(inputs, model, autoencoder) == first


def test_the_wait_is_said_with_how_to_start_sooner(inputs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(latent_cache, "ENCODING_BATCH", 1)
    train(tiny_config(inputs, tmp_path / "run", cache_dir=tmp_path / "latents", max_train_steps=1))
    said = " ".join(capsys.readouterr().out.split())
    assert "4 latents are encoded into" in said and "2 pairs x 2 variants" in said
    assert re.search(r"Encoding takes about \d+ s more\. --cache_variants 1 takes 1/2", said)
    assert "--cache_latents false" in said and "1 process (NO) on" in said
    assert "joint batch of 2 pairs" in said


def test_durations_are_short():
    assert [latent_cache._format_duration(s) for s in (4.4, 125, 7320)] == [
        *("4 s", "2 min 5 s", "2 h 2 min")
    ]


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
