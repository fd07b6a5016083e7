"""The command line, as a user calls it."""

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from helpers.training import HEIGHT, WIDTH, write_inputs

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


def test_dolls_are_made_and_checked(tmp_path):
    made = run(
        "make-synthetic", tmp_path / "data", "--count", 2, "--test-count", 1, "--height", 64
    )
    assert made.returncode == 0, made.stderr
    checked = run("check-data", tmp_path / "data")
    assert checked.returncode == 0 and "; 0 problems" in checked.stdout
    (tmp_path / "data" / "train" / "image" / "00001_00.png").unlink()
    checked = run("check-data", tmp_path / "data")
    assert checked.returncode == 1 and "image/00001_00.png is missing" in checked.stdout


def test_a_training_from_flags(inputs, tmp_path):
    done = run(
        "train",
        "--data",
        inputs / "data",
        "--init",
        inputs / "tiny.safetensors",
        "--output",
        tmp_path / "run",
        "--height",
        HEIGHT,
        "--width",
        WIDTH,
        "--max_train_steps",
        2,
        "--phase=atv",
        "--atv_blocks",
        "[0,1]",
        "--validation-steps",
        0,
        "--gradient_checkpointing",
        "true",
        "--mixed_precision",
        "bf16",
    )
    assert done.returncode == 0, done.stderr
    assert "trained parameters" in done.stdout and "last checkpoint: " in done.stdout
    assert "loss=" in done.stderr and "samples_per_second=" in done.stderr
    with safe_open(tmp_path / "run/checkpoint-00000002/stableviton.safetensors", "pt") as file:
        assert file.metadata()["stableviton.step"] == "2"
    again = run(
        "train",
        "--data",
        inputs / "data",
        "--init",
        inputs / "tiny.safetensors",
        "--output",
        tmp_path / "run",
    )
    assert again.returncode == 1 and again.stderr.startswith("error: ")
    assert "--resume_from_checkpoint latest" in again.stderr and "Traceback" not in again.stderr


def test_errors_are_messages(inputs, tmp_path):
    tail = ("--data", inputs / "data", "--output", tmp_path / "run")
    wrong = run("train", "--init", tmp_path / "none.safetensors", *tail)
    assert wrong.returncode == 1 and "none.safetensors is not a file" in wrong.stderr
    wrong = run("evaluate", "--results", tmp_path, "--reference", tmp_path, "--protocol", "catvton")
    assert wrong.returncode == 1 and "has no pictures" in wrong.stderr
    assert "Traceback" not in wrong.stderr
