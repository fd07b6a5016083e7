"""The key layout of checkpoints, and `convert`."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from helpers.checkpoints import SMALL, seeded_weights, write_checkpoint
from helpers.malicious_files import write_malicious_file
from stableviton_core.errors import CheckpointError
from stableviton_core.model.checkpoint import UNUSED, join, split
from stableviton_core.model.config import ModelConfig
from stableviton_core.model.config_metadata import (
    AUTOENCODER_KEY,
    autoencoder_from_metadata,
    config_from_metadata,
    config_to_metadata,
)
from stableviton_core.model.convert import convert
from stableviton_core.model.weight_reader import read_weights
from stableviton_core.model.weight_writer import write_tensors

ROOT = Path(__file__).resolve().parents[2]


SHAPES = {"scalar": (), "empty": (0, 3), "odd": (3,), "transposed": (4, 5)}


def test_split_and_join_are_inverse():
    weights = seeded_weights()
    components = split(
        weights | {key: torch.zeros(1) for key in UNUSED} | {"stray": torch.zeros(1)}
    )
    assert set(components.pop("unknown")) == {"stray"}
    assert {"learnable_vector", "proj_out.weight"} <= set(components["image_projector"])
    assert "proj_out.weight" not in components["unet"]
    joined = join(components)
    assert joined.keys() == weights.keys()
    assert all(torch.equal(joined[key], weights[key]) for key in weights)


def test_configuration_survives_the_metadata():
    assert config_from_metadata(config_to_metadata(SMALL)) == SMALL
    assert config_from_metadata(None) == ModelConfig()
    assert ModelConfig().network.context_dim == 768


def test_convert_to_half_precision(tmp_path):
    source, target = write_checkpoint(tmp_path / "in.safetensors"), tmp_path / "out.safetensors"
    convert(source, target, "fp16")
    weights, metadata = read_weights(target)
    expected = seeded_weights()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[key], expected[key].half()) for key in expected)
    assert config_from_metadata(metadata) == SMALL
    assert metadata["modelspec.license"] == "CC BY-NC-SA 4.0"
    assert len(metadata["stableviton.source_sha256"]) == 64
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


def test_convert_drops_what_is_not_weights(tmp_path):
    source = tmp_path / "in.safetensors"
    extras = {key: torch.zeros(1) for key in UNUSED}
    save_file(seeded_weights() | extras, source, config_to_metadata(SMALL))
    convert(source, tmp_path / "out.safetensors", "fp32")
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert not UNUSED & set(file.keys())


def test_convert_a_vae_on_its_own(tmp_path):
    autoencoder = split(seeded_weights())["autoencoder"]
    metadata = {AUTOENCODER_KEY: json.dumps(asdict(SMALL.autoencoder))}
    save_file(autoencoder | {"loss.logvar": torch.zeros(1)}, tmp_path / "vae.sft", metadata)
    convert(tmp_path / "vae.sft", tmp_path / "vae.safetensors", "fp32")
    weights, written = read_weights(tmp_path / "vae.safetensors")
    assert weights.keys() == autoencoder.keys()
    assert autoencoder_from_metadata(written) == SMALL.autoencoder
    autoencoder.pop("decoder.conv_in.bias")
    save_file(autoencoder, tmp_path / "cut.safetensors", metadata)
    with pytest.raises(CheckpointError, match="(?s)1 of its entries.*missing decoder.conv_in.bias"):
        convert(tmp_path / "cut.safetensors", tmp_path / "x.safetensors", "fp32")


def test_convert_runs_no_code_and_leaves_no_file(tmp_path):
    created, malicious = tmp_path / "created", tmp_path / "malicious.ckpt"
    write_malicious_file(malicious, created)
    with pytest.raises(CheckpointError, match="wants to run code"):
        convert(malicious, tmp_path / "out.safetensors", "fp16")
    assert {p.name for p in tmp_path.iterdir()} == {"malicious.ckpt"}


def test_a_lightning_checkpoint_is_read_with_all_that_it_carries(tmp_path):
    autoencoder = split(seeded_weights())["autoencoder"]
    carried = {"state_dict": autoencoder, "best": np.float64(0.5), "type": np.dtype("float64")}
    torch.save(carried, tmp_path / "new.ckpt")
    torch.save(carried, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    for name in ("new", "old"):
        weights, _ = read_weights(tmp_path / f"{name}.ckpt")
        assert weights.keys() == autoencoder.keys()
        assert all(torch.equal(weights[key], autoencoder[key]) for key in weights)


def test_convert_refuses_incomplete_files_and_its_own_source(tmp_path):
    source = tmp_path / "in.safetensors"
    weights = {k: v for k, v in seeded_weights().items() if not k.startswith("first_stage_model")}
    save_file(weights, source, config_to_metadata(SMALL))
    with pytest.raises(CheckpointError, match="no entry of the autoencoder"):
        convert(source, tmp_path / "out.safetensors", "fp16")
    with pytest.raises(CheckpointError, match="is the file to convert"):
        convert(source, source, "fp16")
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]


def test_convert_on_the_command_line_says_what_is_wrong(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    command = [sys.executable, "-m", "stableviton_core", "convert"]
    files = [str(tmp_path / "other.safetensors"), str(tmp_path / "out.safetensors")]
    done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "other.safetensors is not a StableVITON checkpoint: it holds no UNet" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_written_one_by_one_are_read_by_the_library(tmp_path, dtype):
    tensors = {name: torch.randn(shape).to(dtype) for name, shape in SHAPES.items()}
    tensors["transposed"] = tensors["transposed"].T.contiguous().T
    write_tensors(tmp_path / "a.safetensors", SHAPES, dtype, tensors.__getitem__, {"x": "ä"})
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"x": "ä"}
        assert set(file.keys()) == set(SHAPES)
        assert all(torch.equal(file.get_tensor(name), tensors[name]) for name in SHAPES)
