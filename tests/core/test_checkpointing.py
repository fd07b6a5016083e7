"""Checkpoints of a training run: complete under kills and full disks, and resumed bit for bit."""

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from helpers.training import equal_weights, tiny_config, train_command
from stableviton_core.errors import StableVITONError
from stableviton_core.model import pretrained
from stableviton_core.model.checkpoint import LICENSE_KEY
from stableviton_core.model.config_metadata import config_from_metadata
from stableviton_core.training import checkpointing
from stableviton_core.training.trainer import Trainer, train

ROOT = Path(__file__).resolve().parents[2]

TEN_STEPS = {
    "max_train_steps": 10,
    "checkpointing_steps": 5,
    "use_ema": True,
    "lr_scheduler": "cosine",
}


@pytest.fixture(scope="module")
def uninterrupted(inputs, tmp_path_factory):
    """The checkpoint of ten steps in one go."""
    output = tmp_path_factory.mktemp("uninterrupted") / "run"
    return train(tiny_config(inputs, output, **TEN_STEPS))


def test_a_checkpoint_says_what_it_is(inputs, uninterrupted):
    with safe_open(uninterrupted / checkpointing.WEIGHTS, framework="pt") as file:
        metadata = file.metadata()
    assert metadata[checkpointing.STEP_KEY] == "10"
    config = json.loads(metadata["stableviton.training"])
    assert config["learning_rate"] == 1e-3 and config["init"] == "tiny.safetensors"
    assert str(inputs) not in str(metadata), "it names folders of the machine"
    assert len(metadata["stableviton.data"]) == 32
    assert metadata[LICENSE_KEY] == "CC BY-NC-SA 4.0"
    assert config_from_metadata(metadata).network.model_channels == 32


def test_a_killed_run_goes_on_bit_for_bit(inputs, uninterrupted, tmp_path):
    config = tiny_config(inputs, tmp_path / "run", **TEN_STEPS)
    process = subprocess.Popen(train_command(config), cwd=ROOT)
    step_5 = checkpointing.checkpoint_folder(config.output, 5)
    deadline = time.monotonic() + 120
    while not step_5.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert checkpointing.list_checkpoints(config.output)[0] == step_5
    for later in checkpointing.list_checkpoints(config.output)[1:]:  # it was faster than the kill
        checkpointing.remove_checkpoint(later)
    folder = train(tiny_config(inputs, config.output, **TEN_STEPS, resume_from_checkpoint="latest"))
    assert checkpointing.parse_step(folder) == 10
    for file in (checkpointing.WEIGHTS, checkpointing.EMA, checkpointing.TRAINED):
        assert equal_weights(folder / file, uninterrupted / file)


@pytest.mark.slow
def test_a_run_that_is_killed_twelve_times_ends_bit_for_bit(inputs, tmp_path):
    steps = TEN_STEPS | {"max_train_steps": 40, "checkpointing_steps": 1}
    whole = train(tiny_config(inputs, tmp_path / "whole", **steps))
    config = tiny_config(inputs, tmp_path / "run", **steps)
    chance, resume = random.Random(0), None
    for _ in range(12):
        process = subprocess.Popen(
            train_command(replace(config, resume_from_checkpoint=resume)), cwd=ROOT
        )
        before = checkpointing.list_checkpoints(config.output)[-1:]
        deadline = time.monotonic() + 60
        while checkpointing.list_checkpoints(config.output)[-1:] == before:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.2))
        process.kill()
        process.wait()
        resume = "latest"
    folder = train(replace(config, resume_from_checkpoint="latest"))
    assert checkpointing.parse_step(folder) == 40
    for file in (checkpointing.WEIGHTS, checkpointing.EMA, checkpointing.TRAINED):
        assert equal_weights(folder / file, whole / file)


def test_old_checkpoints_are_removed(inputs, tmp_path):
    changes = {"checkpointing_steps": 1, "checkpoints_total_limit": 2}
    train(tiny_config(inputs, tmp_path / "run", **changes))
    folders = checkpointing.list_checkpoints(tmp_path / "run")
    assert [checkpointing.parse_step(folder) for folder in folders] == [3, 4]


def test_another_runs_output_is_not_overwritten(inputs, tmp_path):
    config = tiny_config(inputs, tmp_path / "run", max_train_steps=1)
    train(config)
    with pytest.raises(StableVITONError, match="--resume_from_checkpoint latest"):
        train(config)


def test_a_failed_write_keeps_the_last_checkpoint(inputs, tmp_path, monkeypatch):
    save_file, files = checkpointing.save_file, []

    def fill_disk(weights, file, *rest):
        files.append(file)
        if len(files) > 2:  # the first checkpoint has two
            raise OSError(28, "No space left on device", str(file))
        save_file(weights, file, *rest)

    for module in (checkpointing, pretrained):
        monkeypatch.setattr(module, "save_file", fill_disk)
    with pytest.raises(StableVITONError, match="No space left(.|\n)*checkpoint-00000002") as caught:
        train(tiny_config(inputs, tmp_path / "run"))
    assert "step 4 could not be written" in str(caught.value)
    (kept,) = checkpointing.list_checkpoints(tmp_path / "run")
    assert load_file(kept / checkpointing.WEIGHTS)
    assert not list((tmp_path / "run").glob(f"*{checkpointing.PARTIAL}"))


def test_a_checkpoint_is_written_over_an_older_one(inputs, tmp_path):
    config = tiny_config(inputs, tmp_path / "run", max_train_steps=2)
    folder = train(config)
    trainer = Trainer(replace(config, resume_from_checkpoint="latest"))
    trainer.step = 2
    assert trainer.save_checkpoint() == folder
    assert load_file(folder / checkpointing.WEIGHTS)
    assert [path.name for path in (tmp_path / "run").glob("checkpoint*")] == [folder.name]


def test_only_the_last_checkpoint_is_resumed(inputs, tmp_path):
    config = tiny_config(inputs, tmp_path / "run")
    folder = train(config)
    earlier = checkpointing.checkpoint_folder(config.output, 2)
    for name, message in (
        (str(earlier), "is not the last checkpoint"),
        ("checkpoint-7", "It has checkpoint-00000002, checkpoint-00000004"),
    ):
        with pytest.raises(StableVITONError, match=message):
            train(replace(config, resume_from_checkpoint=name))
    assert train(replace(config, resume_from_checkpoint=folder.name)) == folder
    other = replace(config, resume_from_checkpoint="latest", train_input_conv=True)
    with pytest.raises(StableVITONError, match="train_input_conv: false -> true"):
        train(other)
    with pytest.raises(StableVITONError, match="holds other trained parameters"):
        train(replace(other, allow_changed=True))


def test_a_new_learning_rate_holds_after_resuming(inputs, tmp_path):
    config = tiny_config(inputs, tmp_path / "run")
    train(config)
    folder = checkpointing.checkpoint_folder(config.output, 4)
    before = load_file(folder / checkpointing.TRAINED)
    folder = train(
        replace(
            config,
            resume_from_checkpoint="latest",
            max_train_steps=5,
            learning_rate=0.0,
            adam_weight_decay=0.0,
        )
    )
    after = load_file(folder / checkpointing.TRAINED)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.usefixtures("fresh_accelerate")
def test_frozen_weights_are_saved_unrounded(inputs, tmp_path):
    config = tiny_config(inputs, tmp_path / "run", max_train_steps=1, mixed_precision="bf16")
    after = load_file(train(config) / checkpointing.WEIGHTS)
    before = load_file(inputs / "tiny.safetensors")
    for key in ("model.diffusion_model.out.2.weight", "first_stage_model.decoder.conv_in.weight"):
        assert torch.equal(before[key], after[key]), f"{key} was rounded"


SAVE_FOREVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1]); sys.path.insert(0, sys.argv[1] + "/tests")
import os, random, signal, time
import torch
from helpers.training import tiny_config
from stableviton_core.training import checkpointing
from stableviton_core.model.pretrained import load_model
from stableviton_core.training.trainer import Trainer
torch.set_num_threads(1)
inputs, output = Path(sys.argv[2]), Path(sys.argv[3])
trainer = Trainer(tiny_config(inputs, output, use_ema=True, checkpoints_total_limit=2))
random.seed(0)
start = time.perf_counter()
trainer.step += 1
trainer.save_checkpoint()
duration = time.perf_counter() - start
os.write(1, b"0 1\\n")
for kill in range(20):
    before = trainer.step
    child = os.fork()
    if not child:
        while True:
            trainer.step += 1
            trainer.save_checkpoint()
            os.write(1, f"{kill} {trainer.step}\\n".encode())
    time.sleep(random.uniform(0.2, 3) * duration)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if checkpointing.list_checkpoints(output):
        trainer.resume()
        load_model(checkpointing.find_checkpoint(output, "latest") / checkpointing.WEIGHTS)
    if trainer.step == before:  # the machine has become slower
        duration *= 1.5
    os.write(1, f"killed {kill} {trainer.step}\\n".encode())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")
def test_twenty_kills_while_saving_leave_a_loadable_checkpoint(inputs, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SAVE_FOREVER, str(ROOT), str(inputs), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    reported, kills = 0, 0
    for words in map(str.split, done.stdout.splitlines()):
        if words[0] == "killed":
            kills += 1
            assert int(words[2]) in (reported, reported + 1), "a finished checkpoint was lost"
            reported = int(words[2])
        elif len(words) == 2 and words[0].isdigit():
            reported = int(words[1])
    assert kills == 20 and reported > 5
