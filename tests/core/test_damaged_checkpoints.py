"""A run's folder has one writer, and a checkpoint that is not as it was written is not resumed."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.training import equal_weights, tiny_config, train_command
from stableviton_core.errors import StableVITONError
from stableviton_core.training.checkpointing import (
    DIGESTS,
    EMA,
    STATE,
    TRAINED,
    WEIGHTS,
    list_checkpoints,
    list_damage,
)
from stableviton_core.training.trainer import train

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory):
    """The configuration of a run with two checkpoints."""
    steps = {"checkpointing_steps": 1, "checkpoints_total_limit": 9, "use_ema": True}
    output = tmp_path_factory.mktemp("finished") / "run"
    config = tiny_config(inputs, output, max_train_steps=2, **steps)
    train(config)
    return config


@pytest.fixture
def config(finished, tmp_path):
    """Of a copy of the run, to be resumed."""
    output = shutil.copytree(finished.output, tmp_path / "run")
    return replace(finished, output=output, max_train_steps=3, resume_from_checkpoint="latest")


def _truncate(file: Path, other: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def _swap(file: Path, other: Path) -> None:
    file.write_bytes(other.read_bytes())


def _flip(file: Path, other: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def _delete(file: Path, other: Path) -> None:
    file.unlink()


DAMAGE: dict[Callable[[Path, Path], None], str] = {
    _truncate: "has 100 of",
    _swap: "has other content|bytes",
    _flip: "has other content than was written",
    _delete: "is missing",
}


@pytest.mark.parametrize("name", [TRAINED, WEIGHTS, EMA, "optimizer"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_and_the_last_whole_checkpoint_offered(config, damage, name):
    """As two trainers on one folder left it: one's optimizer beside the other's weights."""
    earlier, last = list_checkpoints(config.output)
    if name == "optimizer":
        (file,) = (last / STATE).glob("optimizer*")
        name = f"{STATE}/{file.name}"
    damage(last / name, earlier / name)
    found = f"{last.name} is damaged: {name} ({DAMAGE[damage]})"
    message = f"{found}.*last whole one is .*{earlier.name}"
    with pytest.raises(StableVITONError, match=message):
        train(config)
    last.rename(last.with_name("damaged"))
    assert train(config).name == "checkpoint-00000003", "the advice works"


def test_when_no_checkpoint_is_whole_that_is_said(config):
    for folder in list_checkpoints(config.output):
        (folder / TRAINED).write_bytes(b"")
    with pytest.raises(StableVITONError, match="No earlier checkpoint is whole"):
        train(config)


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', "[" * 100_000, '{"a": {"size": "x"}}'])
def test_damaged_digests_are_damage(config, text):
    last = list_checkpoints(config.output)[-1]
    (last / DIGESTS).write_text(text)
    with pytest.raises(StableVITONError, match=f"damaged: {DIGESTS} cannot be read"):
        train(config)


def test_every_file_of_a_checkpoint_has_a_digest(config):
    for folder in list_checkpoints(config.output):
        files = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}
        assert set(json.loads((folder / DIGESTS).read_text())) == files - {DIGESTS}
        assert list_damage(folder) == []


def test_a_second_trainer_on_a_folder_says_who_holds_it(inputs, tmp_path):
    config = tiny_config(inputs, tmp_path / "run", max_train_steps=500, checkpointing_steps=500)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    first = subprocess.Popen(train_command(config), cwd=ROOT, **quiet)
    try:
        end = time.monotonic() + 60
        while not (config.output / ".lock-holder").is_file() and time.monotonic() < end:
            time.sleep(0.05)
        with pytest.raises(StableVITONError, match=f"`stableviton train`, process {first.pid} on"):
            train(config)
    finally:
        first.kill()
        first.wait()
    killed = train(replace(config, max_train_steps=1))
    alone = train(replace(config, max_train_steps=1, output=tmp_path / "alone"))
    assert equal_weights(killed / TRAINED, alone / TRAINED)


def test_a_refused_run_leaves_no_folder(inputs, tmp_path):
    with pytest.raises(StableVITONError):
        train(tiny_config(inputs, tmp_path / "run", lr_scheduler="nonsense"))
    assert not (tmp_path / "run").exists()
