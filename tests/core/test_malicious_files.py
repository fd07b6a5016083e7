"""Files that contain code, claim more than they hold, or describe impossible networks."""

import functools
import json
import zipfile
from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from helpers.checkpoints import SMALL, seeded_weights, write_checkpoint
from helpers.limits import require_limits
from helpers.malicious_files import (
    compress_members,
    make_code_payloads,
    make_copying_payloads,
    make_memory_payloads,
    write_payload,
    write_pickle,
)
from helpers.person_networks import write_torchscript
from stableviton_core.errors import CheckpointError
from stableviton_core.model.checkpoint import parse_checkpoint
from stableviton_core.model.config_metadata import CONFIG_KEY, config_to_metadata
from stableviton_core.model.convert import convert
from stableviton_core.model.lora import LORA_KEY, parse_lora
from stableviton_core.model.weight_reader import read_weights


@functools.cache
def _seed_weights() -> dict[str, torch.Tensor]:
    return seeded_weights()


def make_weights() -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in _seed_weights().items()}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", ["beside", "weight", "key"])
def test_no_code_in_a_pickle_runs(tmp_path, place, zipped):
    """The forms of torch.save times places times functions: 90 files."""
    created = tmp_path / "created"
    for name, payload in make_code_payloads(created).items():
        file = tmp_path / "evil.ckpt"
        write_payload(file, payload, place, zipped)
        with pytest.raises(CheckpointError, match="names .*wants to run code"):
            read_weights(file)
        assert not created.exists(), name


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", make_memory_payloads())
def test_a_small_pickle_takes_little_memory(tmp_path, kind, zipped):
    file = tmp_path / "small.ckpt"
    payload = make_memory_payloads()[kind]
    write_payload(file, payload, "weight", zipped)
    assert file.stat().st_size < 10_000
    with require_limits():
        if kind == "void scalar":  # is left out, as Lightning's numbers are
            assert read_weights(file) == ({}, {})
        else:
            with pytest.raises(CheckpointError, match="small.ckpt cannot be read"):
                read_weights(file)


@pytest.mark.parametrize("kind", make_copying_payloads())
def test_a_pickle_that_multiplies_is_refused(tmp_path, kind):
    file = tmp_path / "small.ckpt"
    write_pickle(file, make_copying_payloads()[kind])
    with require_limits(), pytest.raises(CheckpointError, match="copies|encodes|nests|too large"):
        read_weights(file)


def test_names_are_checked_as_pytorch_finds_them(tmp_path):
    """It ignores the case of a member's name, and takes the first of several."""
    evil, harmless = b"c__builtin__\nbytearray\n\x8a\x04\0\0\0\x0c\x85R", b"}"
    write_pickle(tmp_path / "case.ckpt", evil, "archive/DATA.PKL")
    with pytest.raises(CheckpointError, match="names __builtin__.bytearray"):
        read_weights(tmp_path / "case.ckpt")
    write_pickle(tmp_path / "two.ckpt", evil)
    with zipfile.ZipFile(tmp_path / "two.ckpt", "a") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + harmless + b".")
    with pytest.raises(CheckpointError, match="several of its members have one name"):
        read_weights(tmp_path / "two.ckpt")


def test_torchscript_is_no_checkpoint(tmp_path):
    write_torchscript(tmp_path / "x.ckpt", 1)
    with pytest.raises(CheckpointError, match="it is TorchScript, a program"):
        read_weights(tmp_path / "x.ckpt")


def test_what_torch_saves_is_read(tmp_path):
    """Every type of number, parameters, transposed and shared tensors, ordered dictionaries."""
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm2d(3))
    weights = OrderedDict(module.state_dict())
    weights |= {
        "parameter": module[0].weight,
        "transposed": torch.rand(3, 4).T,
        "number": torch.tensor(1),
    }
    weights["shared"] = weights["transposed"][1:]
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.float8_e4m3fn):
        weights[str(dtype)] = torch.ones(3).to(dtype)
    extras = {
        "callbacks": {"best": np.float64(1), "step": np.int64(3), "flag": np.bool_(True)},
        "size": torch.Size([1, 2]),
        "device": [torch.device("cpu"), torch.device("cpu")],
        "optimizer": torch.optim.Adam(module.parameters()).state_dict(),
        "set": {1, 2},
    }
    for zipped in (True, False):
        file = tmp_path / f"{zipped}.ckpt"
        if not zipped:
            del weights[str(torch.float8_e4m3fn)]  # PyTorch reads none in the old format
        content = {"state_dict": weights, **extras}
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        read, _ = read_weights(file)
        assert read.keys() == weights.keys()
        assert all(torch.equal(read[key].double(), weights[key].double()) for key in weights)


def test_a_compressed_pickle_is_refused(tmp_path):
    file = tmp_path / "bomb.ckpt"
    torch.save({"x": torch.zeros(1 << 20)}, file)
    compress_members(file)
    assert file.stat().st_size < 10_000
    with require_limits(), pytest.raises(CheckpointError, match="is compressed"):
        read_weights(file)


def test_endings_do_not_decide(tmp_path):
    weights = make_weights()
    save_file(weights, tmp_path / "a.ckpt", config_to_metadata(SMALL))
    torch.save(weights, tmp_path / "b.safetensors")
    read, metadata = read_weights(tmp_path / "a.ckpt")
    assert metadata == config_to_metadata(SMALL)
    assert all(torch.equal(read[key], weights[key]) for key in weights)
    read, metadata = read_weights(tmp_path / "b.safetensors")
    assert metadata == {} and read.keys() == weights.keys()


def _describe(**changes: object) -> str:
    """The small configuration as JSON, with entries changed: SECTION__NAME or NAME."""
    entries = asdict(SMALL)
    for name, value in changes.items():
        section, _, entry = name.rpartition("__")
        (entries[section] if section else entries)[entry] = value
    return json.dumps(entries)


BAD_CONFIGURATIONS = {
    "a million multipliers": _describe(network__channel_mult=[1] * 10**6),
    "a million CLIP layers": _describe(clip__num_hidden_layers=10**6),
    "a million mapper layers": _describe(mapper_layers=10**6),
    "ten million blocks": _describe(network__num_res_blocks=10**7),
    "ten million VAE blocks": _describe(autoencoder__num_res_blocks=10**7),
    "huge channels": _describe(network__model_channels=2**60),
    "huge number": '{"network": 1' + "0" * 5000 + "}",
    "deep": "[" * 100_000 + "]" * 100_000,
    "deep entry": _describe(clip=None).replace(
        "null", '{"hidden_size":' + "[" * 10**5 + "]" * 10**5 + "}"
    ),
    "no object": "[1, 2]",
    "no JSON": "{network: 1}",
    "zero": _describe(network__model_channels=0),
    "negative": _describe(clip__patch_size=-14),
    "zero patch": _describe(clip__patch_size=0),
    "fraction": _describe(network__num_heads=2.5),
    "truth": _describe(network__num_heads=True),
    "text": _describe(network__context_dim="96"),
    "null": _describe(network__channel_mult=None),
    "list": _describe(clip__hidden_size=[64]),
    "empty list": _describe(network__channel_mult=[]),
    "heads": _describe(network__num_heads=7),
    "CLIP heads": _describe(clip__num_attention_heads=3),
    "mapper heads": _describe(mapper_heads=5),
    "groups": _describe(autoencoder__model_channels=33),
    "scale NaN": _describe(autoencoder__latent_scale=float("nan")),
    "scale infinite": _describe(autoencoder__latent_scale=float("inf")),
    "scale beyond numbers": _describe(autoencoder__latent_scale=10**400),
    "scale 0": _describe(autoencoder__latent_scale=0),
    "scale text": _describe(autoencoder__latent_scale="x"),
    "activation": _describe(clip__hidden_act="__import__"),
    "unknown entry": _describe(network__color="red"),
    "latents": _describe(network__latent_channels=8),
}


@pytest.mark.parametrize("case", BAD_CONFIGURATIONS)
def test_impossible_metadata_is_refused_before_anything_is_built(case):
    metadata = {CONFIG_KEY: BAD_CONFIGURATIONS[case]}
    with (
        require_limits(),
        pytest.raises(CheckpointError, match="x.safetensors.*describe a network"),
    ):
        parse_checkpoint("x.safetensors", make_weights(), metadata)
    with require_limits(), pytest.raises(CheckpointError, match="describe a network"):
        parse_lora("x.safetensors", {}, metadata | {LORA_KEY: "{}"})


@pytest.mark.parametrize(
    "changes",
    [
        {"network__num_res_blocks": 3},
        {"network__model_channels": 96},
        {"network__context_dim": 32},
        {"clip__num_hidden_layers": 100},
        {"clip__intermediate_size": 256},
        {"clip__image_size": 448},
        {"autoencoder__num_res_blocks": 16},
        {"autoencoder__channel_mult": [1, 1, 1, 2]},
        {"mapper_layers": 100},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_metadata_of_another_size_is_refused_by_convert_as_by_the_node(tmp_path, changes):
    file = tmp_path / "x.safetensors"
    save_file(make_weights(), file, {CONFIG_KEY: _describe(**changes)})
    with require_limits(), pytest.raises(CheckpointError, match="do not fit the network"):
        convert(file, tmp_path / "y.safetensors", "fp32")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e4m3fn])
def test_weights_that_are_no_numbers_are_named(tmp_path, value, dtype):
    weights = {key: tensor.to(dtype) for key, tensor in make_weights().items()}
    key = "first_stage_model.decoder.conv_in.weight"
    if dtype == torch.float8_e4m3fn:
        value = float("nan")  # it has no infinity
    weights[key].view(torch.uint8 if dtype.itemsize == 1 else dtype).flatten()[-1] = (
        0x7F if dtype.itemsize == 1 else value
    )
    save_file(weights, tmp_path / "x.safetensors", config_to_metadata(SMALL))
    read = read_weights(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=f"NaN or infinity in {key}"):
        parse_checkpoint("x.safetensors", *read)


def test_integers_are_no_weights():
    weights = make_weights()
    weights["learnable_vector"] = weights["learnable_vector"].long()
    with pytest.raises(CheckpointError, match="learnable_vector has numbers of type torch.int64"):
        parse_checkpoint("x.safetensors", weights, config_to_metadata(SMALL))


def test_a_conversion_that_overflows_is_refused(tmp_path):
    weights = make_weights()
    weights["learnable_vector"] = torch.full_like(weights["learnable_vector"], 1e6)
    save_file(weights, tmp_path / "x.safetensors", config_to_metadata(SMALL))
    with pytest.raises(CheckpointError, match="learnable_vector.*beyond those of fp16"):
        convert(tmp_path / "x.safetensors", tmp_path / "y.safetensors", "fp16")
    convert(tmp_path / "x.safetensors", tmp_path / "y.safetensors", "bf16")
    assert not list(tmp_path.glob("*.partial"))


def test_a_file_that_is_no_regular_one_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere.ckpt", Path("/dev/zero")):
        with pytest.raises(CheckpointError, match="is not a file"):
            read_weights(path)


def test_a_whole_file_is_read(tmp_path):
    """What the other tests damage is accepted as it is."""
    file = write_checkpoint(tmp_path / "x.safetensors")
    assert parse_checkpoint("x.safetensors", *read_weights(file)).config == SMALL
