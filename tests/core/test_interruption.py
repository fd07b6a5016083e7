"""Ctrl-C and SIGTERM: nothing is lost, and the message says how to go on."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.training import equal_weights, tiny_config, write_inputs
from stableviton_core.interruption import catch_interrupts
from stableviton_core.training import latent_cache
from stableviton_core.training.checkpointing import WEIGHTS, list_checkpoints, parse_step
from stableviton_core.training.latent_cache import LatentCache
from stableviton_core.training.trainer import Trainer, train

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder, count=2)
    return folder


def test_the_first_signal_is_noted_and_the_second_acts():
    with catch_interrupts() as interrupt:
        assert not interrupt.requested
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupted_run_saves_and_goes_on_bit_for_bit(inputs, tmp_path, monkeypatch):
    whole = train(tiny_config(inputs, tmp_path / "whole", checkpointing_steps=4))
    config = tiny_config(inputs, tmp_path / "run", checkpointing_steps=4)
    train_step = Trainer.train_step

    def interrupt_step_2(trainer, batches):
        if trainer.step == 1:
            signal.raise_signal(signal.SIGTERM)
        return train_step(trainer, batches)

    monkeypatch.setattr(Trainer, "train_step", interrupt_step_2)
    with pytest.raises(KeyboardInterrupt, match="after step 2 of 4(.|\n)*--resume_from_checkpoint"):
        train(config)
    assert [parse_step(folder) for folder in list_checkpoints(config.output)] == [2]
    monkeypatch.undo()
    resumed = train(replace(config, resume_from_checkpoint="latest"))
    assert equal_weights(resumed / WEIGHTS, whole / WEIGHTS)


def test_an_interrupted_encoding_keeps_what_it_has(inputs, tmp_path, monkeypatch):
    config = tiny_config(inputs, tmp_path / "run", cache_dir=tmp_path / "latents")
    encode_samples, calls = latent_cache.encode_samples, []

    def interrupt_first(*arguments):
        calls.append(len(arguments[2]))
        if len(calls) == 1:
            signal.raise_signal(signal.SIGINT)
        return encode_samples(*arguments)

    monkeypatch.setattr(latent_cache, "ENCODING_BATCH", 1)
    monkeypatch.setattr(latent_cache, "encode_samples", interrupt_first)
    with pytest.raises(KeyboardInterrupt, match="1 of 4 latents are encoded and kept in"):
        train(config)
    assert len(LatentCache(config.cache_folder).shards) == 1
    train(replace(config, max_train_steps=1))
    assert len(calls) == 1 + 3, "what is kept is not encoded again"


@pytest.mark.skipif(os.name == "nt", reason="sends signals to a group of processes")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_and_its_loaders_save_and_end_with_130(inputs, tmp_path, number):
    """Terminals, launchers and schedulers signal the loader's processes, too."""
    options = {
        "data": inputs / "data",
        "init": inputs / "tiny.safetensors",
        "output": tmp_path / "run",
        "cache_dir": inputs / "latents",
    }
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    flags += ["--height=64", "--width=48", "--train_batch_size=2", "--max_train_steps=100000"]
    flags += ["--checkpointing_steps=100000", "--validation_steps=0", "--cache_variants=2"]
    flags += ["--dataloader_num_workers=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "stableviton_core", "train", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run/logs").exists() and time.monotonic() < deadline:
        time.sleep(0.1)  # the logs begin right before the first step
    time.sleep(1)  # until the loader has started
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "--resume_from_checkpoint latest" in output and "Traceback" not in output
    assert len(list_checkpoints(tmp_path / "run")) == 1
