"""The command line, as a user calls it."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from safetensors import safe_open

from helpers.training import HEIGHT, WIDTH, write_inputs
from stableviton_core.__main__ import COMMANDS, Dtype, get_config_class, main, parse_arguments
from stableviton_core.evaluation.metrics import PROTOCOLS
from stableviton_core.model.checkpoint import DTYPES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder, count=2)
    return folder


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "stableviton_core", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )


def test_synthetic_samples_are_made_and_checked(tmp_path):
    made = run("make-synthetic", tmp_path / "data", "--count", 2, "--test-count", 1, "--height", 64)
    assert made.returncode == 0, made.stderr
    checked = run("check-data", tmp_path / "data")
    assert checked.returncode == 0 and "; 0 problems" in checked.stdout
    (tmp_path / "data" / "train" / "image" / "00001_00.png").unlink()
    checked = run("check-data", tmp_path / "data")
    assert checked.returncode == 1 and "image/00001_00.png is missing" in checked.stdout


def show_help(*command: str) -> str:
    """The help of a command, shown by a process that does not import torch."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "stableviton_core", *command, "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0 and "jsonargparse" in imported and "torch" not in imported
    return " ".join(done.stdout.split())


def test_help_lists_every_command():
    text = show_help()
    for command in COMMANDS.values():
        assert command.__name__.replace("_", "-") in text


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_its_arguments(name):
    text = show_help(name)
    kind = get_config_class(COMMANDS[name])
    for parameter in inspect.signature(kind or COMMANDS[name]).parameters:
        assert parameter in text
    assert "--config" in text


def test_choices_are_those_of_the_rooms():
    signature = inspect.signature(get_config_class(COMMANDS["evaluate"]), eval_str=True)
    assert get_args(signature.parameters["protocol"].annotation) == tuple(PROTOCOLS)
    assert get_args(Dtype) == tuple(DTYPES)


def test_flags_take_lists_dashes_and_switches():
    command, values = parse_arguments(
        [
            *("batch", "--graph", "g.json", "--output=out", "--server", "http://a", "--ray"),
            *("--server", "http://b", "--set", "Load it.name=x.y", "--contact-sheet"),
        ]
    )
    config = values["config"]
    assert command is COMMANDS["batch"] and config.server == ("http://a", "http://b")
    assert config.ray is True and config.contact_sheet and config.set == ("Load it.name=x.y",)
    _, values = parse_arguments(
        ["make-synthetic", "out", "--count", "2", "--test_count=1", "--patterns", "dots", "plain"]
    )
    assert values["output"] == Path("out") and values["count"] == 2 and values["test_count"] == 1
    assert values["patterns"] == ("dots", "plain")


def test_a_config_file_is_overridden_by_later_flags(tmp_path):
    file = tmp_path / "vae.yaml"
    file.write_text("height: 128\nwidth: 96\ndata: d\ninit: i.safetensors\n")
    _, values = parse_arguments(
        ["finetune-vae", "--config", str(file), "--output", "o.safetensors", "--width", "64"]
    )
    config = values["config"]
    assert (config.height, config.width, config.data) == (128, 64, Path("d"))


@pytest.mark.parametrize(
    ("module", "install"),
    [("jsonargparse", "pip install"), ("stableviton_core.dataset.check_data", ".[train]")],
)
def test_what_is_not_installed_is_named(monkeypatch, capsys, module, install):
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["check-data", "nowhere"]) == 1
    assert install in capsys.readouterr().err


def test_a_training_from_flags(inputs, tmp_path):
    files = (
        *("--data", inputs / "data", "--init", inputs / "tiny.safetensors"),
        *("--output", tmp_path / "run"),
    )
    done = run(
        *("train", *files, "--height", HEIGHT, "--width", WIDTH, "--max_train_steps", 2),
        *("--phase=atv", "--atv_blocks", "[0,1]", "--validation-steps", 0),
        *("--gradient_checkpointing", "true", "--mixed_precision", "bf16"),
    )
    assert done.returncode == 0, done.stderr
    assert "trained parameters" in done.stdout and "last checkpoint: " in done.stdout
    assert "loss=" in done.stderr and "samples_per_second=" in done.stderr
    with safe_open(tmp_path / "run/checkpoint-00000002/stableviton.safetensors", "pt") as file:
        assert file.metadata()["stableviton.step"] == "2"
    again = run("train", *files)
    assert again.returncode == 1 and again.stderr.startswith("error: ")
    assert "--resume_from_checkpoint latest" in again.stderr and "Traceback" not in again.stderr


def test_errors_are_messages(inputs, tmp_path):
    tail = ("--data", inputs / "data", "--output", tmp_path / "run")
    wrong = run("train", "--init", tmp_path / "none.safetensors", *tail)
    assert wrong.returncode == 1 and "none.safetensors is not a file" in wrong.stderr
    wrong = run("evaluate", "--results", tmp_path, "--reference", tmp_path, "--protocol", "catvton")
    assert wrong.returncode == 1 and "has no images" in wrong.stderr
    assert "Traceback" not in wrong.stderr
