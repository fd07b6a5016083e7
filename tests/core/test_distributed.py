"""Training in several processes: DDP and FSDP against one process."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from helpers.training import PROPORTIONAL, equal_weights, tiny_config
from stableviton_core.errors import StableVITONError
from stableviton_core.training import checkpointing
from stableviton_core.training.distributed import _require_single_process
from stableviton_core.training.trainer import VALIDATION_IMAGE, train

ROOT = Path(__file__).resolve().parents[2]


def test_a_launcher_that_starts_one_process_of_several_is_refused(inputs, tmp_path):
    """What `accelerate launch --cpu --num_processes 2` does without MPI."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=2"]
    launcher += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    script = str(ROOT / "tests" / "helpers" / "gradients.py")
    arguments = [*launcher, script, str(inputs), str(tmp_path / "run"), "2"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode != 0
    assert "several processes, but this run is a single one" in done.stderr
    assert "--multi_gpu" in done.stderr and not (tmp_path / "run").exists()


def test_a_count_of_processes_in_the_environment_is_believed():
    _require_single_process({"WORLD_SIZE": "1", "MASTER_ADDR": "x"})
    _require_single_process({"ACCELERATE_MIXED_PRECISION": "no"})
    with pytest.raises(StableVITONError, match="--num_processes N"):
        _require_single_process({"WORLD_SIZE": "2"})


def launch(processes: int, script: str, folder: Path, *arguments: object) -> None:
    """Run a helper's script under `accelerate launch`, on the CPU."""
    distributed = ["--multi_gpu", "--main_process_port=0"] if processes > 1 else ["--cpu"]
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *distributed,
        f"--num_processes={processes}",
        "--num_machines=1",
        "--mixed_precision=no",
        "--dynamo_backend=no",
        "--num_cpu_threads_per_process=1",
        str(ROOT / "tests" / "helpers" / script),
        *map(str, arguments),
    ]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}  # several processes of gloo
    subprocess.run(command, check=True, cwd=folder, timeout=200, env=environment)


def test_two_processes_have_the_gradients_of_one(inputs, tmp_path):
    gradients = []
    for processes in (1, 2):
        output = tmp_path / str(processes)
        shutil.rmtree(inputs / "latents", ignore_errors=True)  # each encodes a part
        launch(processes, "gradients.py", tmp_path, inputs, output, 4 // processes)
        gradients.append(load_file(output / "gradients.safetensors"))
    one, two = gradients
    assert one.keys() == two.keys() and len(one) > 20
    largest = max(value.abs().max() for value in one.values())
    assert all((one[key] - two[key]).abs().max() <= 1e-5 * largest for key in one)


def test_weights_sharded_by_fsdp_train_as_whole_ones(inputs, tmp_path):
    """Against one process with the joint batch; and resumed, against an uninterrupted run."""
    changes = PROPORTIONAL | {"learning_rate": 1.0, "max_train_steps": 4, "train_batch_size": 4}
    single = train(tiny_config(inputs, tmp_path / "single", **changes, use_ema=True))
    launch(2, "sharded.py", tmp_path, inputs, tmp_path / "uninterrupted", 2, 4)
    for steps in (2, 4):
        launch(2, "sharded.py", tmp_path, inputs, tmp_path / "resumed", 2, steps)
    uninterrupted, resumed = (
        checkpointing.list_checkpoints(tmp_path / name)[-1] for name in ("uninterrupted", "resumed")
    )
    before = load_file(inputs / "tiny.safetensors")
    after = load_file(single / checkpointing.WEIGHTS)
    change = max((after[key] - before[key]).abs().max() for key in before)
    assert change > 1e-4
    for file in (checkpointing.WEIGHTS, checkpointing.TRAINED, checkpointing.EMA):
        one, two = load_file(single / file), load_file(uninterrupted / file)
        assert one.keys() == two.keys()
        difference = max((one[key] - two[key]).abs().max() for key in one)
        assert difference <= 1e-3 * change
        assert equal_weights(uninterrupted / file, resumed / file)
    assert (tmp_path / "uninterrupted" / VALIDATION_IMAGE).is_file()
