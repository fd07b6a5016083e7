"""A resumed run is the one that wrote the checkpoint, or says what differs."""

import json
from dataclasses import fields, replace

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from helpers.training import tiny_config, write_inputs
from stableviton_core.errors import StableVITONError
from stableviton_core.training.checkpointing import DIGESTS, TRAINED, list_checkpoints, parse_step
from stableviton_core.training.config import TrainConfig
from stableviton_core.training.resume import (
    CHANGEABLE,
    DATA_KEY,
    INIT_KEY,
    JOINT_BATCH_KEY,
    TRAINING_KEY,
    list_differences,
)
from stableviton_core.training.trainer import train


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder, count=2)
    return folder


@pytest.fixture(scope="module")
def config(inputs, tmp_path_factory):
    """Of a run of one step that can be resumed."""
    output = tmp_path_factory.mktemp("runs") / "run"
    config = tiny_config(
        inputs, output, max_train_steps=1, train_batch_size=2, checkpoints_total_limit=9
    )
    train(config)
    return replace(config, resume_from_checkpoint="latest")


def test_only_settings_can_be_changeable():
    assert {field.name for field in fields(TrainConfig)} >= CHANGEABLE


def test_other_settings_are_listed_and_refused(config):
    other = replace(config, seed=5, phase="atv", adam_beta1=0.5, learning_rate=1e-5)
    with pytest.raises(StableVITONError) as caught:
        train(other)
    message = str(caught.value)
    for difference in ("seed: 0 -> 5", 'phase: "base" -> "atv"', "adam_beta1: 0.9 -> 0.5"):
        assert difference in message
    assert "learning_rate" not in message and "--allow_changed" in message


def test_another_joint_batch_is_refused_and_the_same_in_parts_is_not(config):
    with pytest.raises(StableVITONError, match="joint batch size: 2 -> 4"):
        train(replace(config, gradient_accumulation_steps=2))
    folder = train(replace(config, train_batch_size=1, gradient_accumulation_steps=2))
    assert parse_step(folder) == 1


def test_other_initial_weights_and_data_are_refused(config, inputs, tmp_path):
    weights = load_file(inputs / "tiny.safetensors")
    weights["learnable_vector"] = weights["learnable_vector"] + 1
    with safe_open(inputs / "tiny.safetensors", framework="pt") as file:
        save_file(weights, tmp_path / "tiny.safetensors", file.metadata())
    other = replace(config, init=tmp_path / "tiny.safetensors")
    with pytest.raises(StableVITONError, match=r"initial weights .*: other content"):
        train(other)
    write_inputs(tmp_path / "more", count=3)
    with pytest.raises(StableVITONError, match="the data: other content"):
        train(replace(config, data=tmp_path / "more/data"))
    moved = tmp_path / "renamed.safetensors"
    moved.write_bytes((inputs / "tiny.safetensors").read_bytes())
    assert parse_step(train(replace(config, init=moved))) == 1


def test_a_damaged_checkpoint_of_an_earlier_version_cannot_be_read(config):
    folder = list_checkpoints(config.output)[-1]
    contents = {name: (folder / name).read_bytes() for name in (TRAINED, DIGESTS)}
    (folder / TRAINED).write_bytes(contents[TRAINED][:50])
    (folder / DIGESTS).unlink()
    try:
        with pytest.raises(StableVITONError, match="could not be read or written: .*header"):
            train(config)
    finally:
        for name, content in contents.items():
            (folder / name).write_bytes(content)


def test_differences_are_allowed_on_request_and_said(config, capsys):
    assert parse_step(train(replace(config, seed=5, allow_changed=True))) == 1
    assert "changed: seed: 0 -> 5" in capsys.readouterr().out


def test_a_setting_that_the_checkpoint_lacks_had_its_default(config):
    now = {
        TRAINING_KEY: json.dumps({"ema_decay": 0.5, "seed": 0}),
        **{DATA_KEY: "a", INIT_KEY: "b", JOINT_BATCH_KEY: "2"},
    }
    assert list_differences({TRAINING_KEY: json.dumps({"seed": 0})}, now) == [
        "ema_decay: 0.9999 -> 0.5"
    ]
    assert list_differences({}, now) == []
