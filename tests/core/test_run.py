"""Training runs: what they change, keep and write, and how they go on."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from helpers.training import HEIGHT, WIDTH, tiny_config, write_inputs
from stableviton_core.errors import StableVITONError
from stableviton_core.model.checkpoint import config_from_metadata
from stableviton_core.training import checkpointing, run, trainer
from stableviton_core.training.latent_cache import stack_latents
from stableviton_core.training.latent_cache import LatentCache
from stableviton_core.training.losses import correspondence_loss, draw, model_inputs, token_grid
from stableviton_core.training.run import prepared
from stableviton_core.training.trainer import train

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def straight(inputs, tmp_path_factory):
    """Ten steps in one go: the checkpoint's folder."""
    output = tmp_path_factory.mktemp("straight") / "run"
    return train(tiny_config(inputs, output, **TEN_STEPS))


TEN_STEPS = {
    "max_train_steps": 10,
    "checkpointing_steps": 5,
    "use_ema": True,
    "lr_scheduler": "cosine",
}


def command(config) -> list[str]:
    """The command line of a configuration."""
    file = config.output.with_suffix(".yaml")
    entries = {key: value for key, value in asdict(config).items() if value is not None}
    file.write_text(yaml.safe_dump(json.loads(json.dumps(entries, default=str))))
    return [sys.executable, "-m", "stableviton_core", "train", "--config", str(file)]


def equal_weights(first: Path, second: Path) -> bool:
    one, two = load_file(first), load_file(second)
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


# one step of Adam that is in proportion to the gradient
PROPORTIONAL = {
    "max_train_steps": 1,
    "adam_epsilon": 1.0,
    "learning_rate": 100.0,
    "max_grad_norm": 1e9,
}


def same_step(inputs: Path, *folders: Path) -> bool:
    """Whether two runs moved the weights alike, up to rounding."""
    key = "model.diffusion_model.warp_zero_convs.0.weight"
    before = load_file(inputs / "tiny.safetensors")[key]
    one, two = (load_file(folder / checkpointing.WEIGHTS)[key] - before for folder in folders)
    assert one.abs().max() > 1e-4
    return bool((one - two).abs().max() <= 1e-3 * one.abs().max())


def test_only_the_chosen_parameters_move(inputs, straight):
    before = load_file(inputs / "tiny.safetensors")
    after = load_file(straight / checkpointing.WEIGHTS)
    assert before.keys() == after.keys()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    trained = ("control_model.", "model.diffusion_model.warp_", "proj_out.", "learnable_vector")
    assert moved and all(key.startswith(trained) for key in moved)
    for prefix in trained:
        assert any(key.startswith(prefix) for key in moved), prefix


def test_the_input_convolution_is_trained_on_request(inputs, tmp_path):
    folder = train(tiny_config(inputs, tmp_path / "run", max_train_steps=1, train_input_conv=True))
    key = "model.diffusion_model.input_blocks.0.0.weight"
    before = load_file(inputs / "tiny.safetensors")[key]
    assert not torch.equal(before, load_file(folder / checkpointing.WEIGHTS)[key])


def test_a_checkpoint_says_what_it_is(inputs, straight):
    with safe_open(straight / checkpointing.WEIGHTS, framework="pt") as file:
        metadata = file.metadata()
    assert metadata[checkpointing.STEP_KEY] == "10"
    told = json.loads(metadata["stableviton.training"])
    assert told["learning_rate"] == 1e-3 and told["init"] == "tiny.safetensors"
    assert str(inputs) not in str(metadata), "where files lay on a machine is told"
    assert len(metadata["stableviton.data"]) == 32
    assert metadata[checkpointing.LICENSE_KEY] == "CC BY-NC-SA 4.0"
    assert config_from_metadata(metadata).network.model_channels == 32


def test_a_killed_run_goes_on_bit_for_bit(inputs, straight, tmp_path):
    config = tiny_config(inputs, tmp_path / "run", **TEN_STEPS)
    process = subprocess.Popen(command(config), cwd=ROOT)
    five = checkpointing.folder_of(config.output, 5)
    deadline = time.monotonic() + 120
    while not five.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert checkpointing.complete(config.output)[0] == five
    for later in checkpointing.complete(config.output)[1:]:  # it was faster than the kill
        checkpointing._remove(later)
    folder = train(tiny_config(inputs, config.output, **TEN_STEPS, resume_from_checkpoint="latest"))
    assert checkpointing.step_of(folder) == 10
    assert equal_weights(folder / checkpointing.WEIGHTS, straight / checkpointing.WEIGHTS)
    assert equal_weights(folder / checkpointing.AVERAGE, straight / checkpointing.AVERAGE)
    assert equal_weights(folder / checkpointing.TRAINED, straight / checkpointing.TRAINED)


def test_latents_on_the_fly_give_the_same_run(inputs, tmp_path):
    folders = [
        train(tiny_config(inputs, tmp_path / str(cached), cache_latents=cached, **PROPORTIONAL))
        for cached in (True, False)
    ]
    assert same_step(inputs, *folders)


def test_recomputed_activations_give_the_same_run(inputs, tmp_path):
    folders = [
        train(
            tiny_config(
                inputs,
                tmp_path / str(recompute),
                max_train_steps=2,
                phase="atv",
                gradient_checkpointing=recompute,
            )
        )
        for recompute in (False, True)
    ]
    assert equal_weights(*(folder / checkpointing.WEIGHTS for folder in folders))


def attention_error(inputs: Path, weights: Path, output: Path) -> float:
    """Of block 0, on the training data."""
    config = tiny_config(inputs, output, init=weights, correspondence_blocks=(0,), **PLAIN)
    ready = prepared(config, Accelerator())
    batch = stack_latents([ready.dataset[pair, 0] for pair in range(len(ready.pairs))])
    with torch.no_grad():
        ready.network(**model_inputs(batch, draw(0, 0, batch.person.shape, 0)))
    grid = token_grid(ready.model.config.network, 0, *batch.person.shape[2:])
    return correspondence_loss(ready.maps[0], grid, batch.garment_coordinates).item()


PLAIN = {"augmentation": False}


def test_the_attention_learns_where_it_is_told_to_look(inputs, tmp_path):
    errors = {}
    for blocks in ((), (0,)):
        output = tmp_path / f"told-{len(blocks)}"
        told = {"correspondence_blocks": blocks, "correspondence_weight": 1.0}
        folder = train(tiny_config(inputs, output, max_train_steps=60, **told, **PLAIN))
        errors[blocks] = attention_error(
            inputs, folder / checkpointing.WEIGHTS, tmp_path / "measured"
        )
    assert errors[0,] < errors[()] - 0.5, errors


def test_correspondences_need_the_places(inputs, tmp_path):
    shutil.copytree(inputs / "data", tmp_path / "data")
    shutil.rmtree(tmp_path / "data/train/gt_cloth_coordinates")
    message = "correspondence_blocks needs .* in the folder gt_cloth_coordinates; 6 have none"
    with pytest.raises(StableVITONError, match=message):
        train(
            tiny_config(
                inputs, tmp_path / "run", data=tmp_path / "data", correspondence_blocks=(0,)
            )
        )


def test_accumulated_batches_are_one_batch(inputs, tmp_path):
    folders = [
        train(
            tiny_config(
                inputs,
                tmp_path / str(size),
                train_batch_size=size,
                gradient_accumulation_steps=4 // size,
                **PROPORTIONAL,
            )
        )
        for size in (4, 2)
    ]
    assert same_step(inputs, *folders)


def launch(processes: int, script: str, folder: Path, *arguments: object) -> None:
    """A helper's script under `accelerate launch`, on the CPU."""
    many = ["--multi_gpu", "--main_process_port=0"] if processes > 1 else ["--cpu"]
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *many,
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
        shutil.rmtree(inputs / "latents", ignore_errors=True)  # each encodes its share
        launch(processes, "gradients.py", tmp_path, inputs, output, 4 // processes)
        gradients.append(load_file(output / "gradients.safetensors"))
    one, two = gradients
    assert one.keys() == two.keys() and len(one) > 20
    largest = max(value.abs().max() for value in one.values())
    assert all((one[key] - two[key]).abs().max() <= 1e-5 * largest for key in one)


def test_weights_sharded_by_fsdp_train_as_whole_ones(inputs, tmp_path):
    """Against one process with the joint batch; and resumed, against straight on."""
    changes = PROPORTIONAL | {"learning_rate": 1.0, "max_train_steps": 4, "train_batch_size": 4}
    alone = train(tiny_config(inputs, tmp_path / "alone", **changes, use_ema=True))
    launch(2, "sharded.py", tmp_path, inputs, tmp_path / "straight", 2, 4)
    for steps in (2, 4):
        launch(2, "sharded.py", tmp_path, inputs, tmp_path / "halves", 2, steps)
    straight, halves = (
        checkpointing.complete(tmp_path / name)[-1] for name in ("straight", "halves")
    )
    before, after = (
        load_file(f) for f in (inputs / "tiny.safetensors", alone / checkpointing.WEIGHTS)
    )
    moved = max((after[key] - before[key]).abs().max() for key in before)
    assert moved > 1e-4
    for file in (checkpointing.WEIGHTS, checkpointing.TRAINED, checkpointing.AVERAGE):
        one, two = load_file(alone / file), load_file(straight / file)
        assert one.keys() == two.keys()
        apart = max((one[key] - two[key]).abs().max() for key in one)
        assert apart <= 1e-3 * moved
        assert equal_weights(straight / file, halves / file)
    assert (tmp_path / "straight" / trainer.SHEET).is_file()


def test_a_sheet_and_scalars_are_written(inputs, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    output = tmp_path / "run"
    train(
        tiny_config(
            inputs, output, validation_steps=2, num_validation_images=2, num_inference_steps=2
        )
    )
    picture = np.asarray(Image.open(output / trainer.SHEET))
    assert picture.shape == (2 * HEIGHT, 4 * WIDTH, 3)
    first = np.asarray(Image.open(inputs / "data/test/cloth/00000_01.png"))
    assert np.array_equal(picture[:HEIGHT, :WIDTH], first)
    events = EventAccumulator(str(output / "logs"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    assert {"loss", "learning_rate"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Images("validation")] == [2, 4]


def test_old_checkpoints_go(inputs, tmp_path):
    changes = {"checkpointing_steps": 1, "checkpoints_total_limit": 2}
    train(tiny_config(inputs, tmp_path / "run", **changes))
    assert [
        checkpointing.step_of(folder) for folder in checkpointing.complete(tmp_path / "run")
    ] == [3, 4]


def test_another_runs_output_is_not_overwritten(inputs, tmp_path):
    config = tiny_config(inputs, tmp_path / "run", max_train_steps=1)
    train(config)
    with pytest.raises(StableVITONError, match="--resume_from_checkpoint latest"):
        train(config)


def test_a_loss_that_is_no_number_stops_the_run(inputs, tmp_path, monkeypatch):
    real, calls = trainer.batch_loss, []

    def broken(*arguments):
        calls.append(arguments)
        return real(*arguments) * (float("nan") if len(calls) == 4 else 1)

    monkeypatch.setattr(trainer, "batch_loss", broken)
    with pytest.raises(StableVITONError) as caught:
        train(tiny_config(inputs, tmp_path / "run"))
    message = str(caught.value)
    assert "loss of step 4 is nan" in message and "checkpoint-00000002" in message
    assert message.count("+0000") == 2, "the two pairs of the batch by name"
    (kept,) = checkpointing.complete(tmp_path / "run")
    assert load_file(kept / checkpointing.WEIGHTS)


def test_a_gradient_that_is_no_number_never_reaches_the_weights(inputs, tmp_path, monkeypatch):
    real = trainer.batch_loss

    def broken(run, batch, drawn):
        parameter = next(iter(run.trained.values()))
        return real(run, batch, drawn) + 0 * (parameter.sum() - parameter.detach().sum()).sqrt()

    monkeypatch.setattr(trainer, "batch_loss", broken)  # sqrt has no derivative at 0
    with pytest.raises(StableVITONError, match="gradient of step 1 is nan"):
        train(tiny_config(inputs, tmp_path / "run"))
    assert not checkpointing.complete(tmp_path / "run")


def test_a_failed_write_keeps_the_last_checkpoint(inputs, tmp_path, monkeypatch):
    real, calls = checkpointing.save_file, []

    def full(weights, file, *rest):
        calls.append(file)
        if len(calls) > 2:  # of the first checkpoint there are two
            raise OSError(28, "No space left on device", str(file))
        real(weights, file, *rest)

    monkeypatch.setattr(checkpointing, "save_file", full)
    with pytest.raises(StableVITONError, match="No space left(.|\n)*checkpoint-00000002") as caught:
        train(tiny_config(inputs, tmp_path / "run"))
    assert "step 4 could not be written" in str(caught.value)
    (kept,) = checkpointing.complete(tmp_path / "run")
    assert load_file(kept / checkpointing.WEIGHTS)
    assert not list((tmp_path / "run").glob(f"*{checkpointing.PARTIAL}"))


def test_a_checkpoint_is_written_over_an_older_one(inputs, tmp_path):
    config = tiny_config(inputs, tmp_path / "run", max_train_steps=2)
    folder = train(config)
    run = prepared(replace(config, resume_from_checkpoint="latest"), Accelerator())
    assert trainer._save(run, 2) == folder
    assert load_file(folder / checkpointing.WEIGHTS)
    assert [path.name for path in (tmp_path / "run").glob("checkpoint*")] == [folder.name]


def test_only_the_last_checkpoint_is_resumed(inputs, tmp_path):
    config = tiny_config(inputs, tmp_path / "run")
    folder = train(config)
    earlier = checkpointing.folder_of(config.output, 2)
    for wanted, message in (
        (str(earlier), "is not the last checkpoint"),
        ("checkpoint-7", "It has checkpoint-00000002, checkpoint-00000004"),
    ):
        with pytest.raises(StableVITONError, match=message):
            train(replace(config, resume_from_checkpoint=wanted))
    assert train(replace(config, resume_from_checkpoint=folder.name)) == folder
    other = replace(config, resume_from_checkpoint="latest", train_input_conv=True)
    with pytest.raises(StableVITONError, match="holds other trained parameters"):
        train(other)


def test_a_new_learning_rate_holds_after_a_resumption(inputs, tmp_path):
    config = tiny_config(inputs, tmp_path / "run")
    train(config)
    before = load_file(checkpointing.folder_of(config.output, 4) / checkpointing.TRAINED)
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


@pytest.fixture
def fresh_accelerate():
    """accelerate keeps a process to one precision."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("fresh_accelerate")
def test_frozen_weights_are_saved_as_they_were(inputs, tmp_path):
    config = tiny_config(inputs, tmp_path / "run", max_train_steps=1, mixed_precision="bf16")
    after = load_file(train(config) / checkpointing.WEIGHTS)
    before = load_file(inputs / "tiny.safetensors")
    for key in ("model.diffusion_model.out.2.weight", "first_stage_model.decoder.conv_in.weight"):
        assert torch.equal(before[key], after[key]), f"{key} was rounded"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phase": "atv", "atv_blocks": (9,)}, r"of 0\.\.1 in this network, got \[9\]"),
        ({"correspondence_blocks": (2,)}, r"of 0\.\.1 in this network, got \[2\]"),
        ({"lr_scheduler": "sinus"}, "'sinus' is not a valid"),
        ({"validation_steps": 1, "validation_pairs": "none.txt"}, "none.txt is not there"),
        ({"train_patterns": ("nothing",)}, "no parameter has a name like 'nothing'"),
    ],
)
def test_wrong_settings_are_found_before_encoding(inputs, tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr(run, "cache_keys", lambda *_: pytest.fail("it encodes first"))
    with pytest.raises(StableVITONError, match=message):
        train(tiny_config(inputs, tmp_path / "run", **changes))


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a small tmpfs")
def test_a_full_disk_keeps_the_last_checkpoint(inputs, tmp_path):
    output = tmp_path / "small"
    output.mkdir()
    size = (inputs / "tiny.safetensors").stat().st_size
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={3 * size}", "tmpfs", str(output)],
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        config = tiny_config(inputs, output, checkpointing_steps=1, checkpoints_total_limit=9)
        with pytest.raises(StableVITONError, match="could not be written") as caught:
            train(config)
        kept = checkpointing.complete(output)
        assert kept and str(kept[-1]) in str(caught.value)
        for folder in kept:
            assert load_file(folder / checkpointing.WEIGHTS)
        assert not list(output.glob(f"*{checkpointing.PARTIAL}"))
    finally:
        subprocess.run(["umount", str(output)], check=True)


SAVE_FOREVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1]); sys.path.insert(0, sys.argv[1] + "/tests")
import os, random, signal, time
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from helpers.training import tiny_config
from stableviton_core.training import trainer, checkpointing
from stableviton_core.training.run import prepared
torch.set_num_threads(1)
inputs, output = Path(sys.argv[2]), Path(sys.argv[3])
config = tiny_config(inputs, output, use_ema=True, checkpoints_total_limit=2)
run = prepared(config, Accelerator(step_scheduler_with_optimizer=False))
random.seed(0)
step = 0
for kill in range(20):
    child = os.fork()
    if not child:
        while True:
            step += 1
            trainer._save(run, step)
            os.write(1, f"{kill} {step}\\n".encode())
    time.sleep(random.uniform(0.05, 0.6))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    latest = checkpointing.resumed_from(output, "latest") if checkpointing.complete(output) else None
    step = checkpointing.step_of(latest) if latest else 0
    os.write(1, f"killed {kill} {step}\\n".encode())
    if latest:
        checkpointing.load_model(latest / checkpointing.WEIGHTS)
        checkpointing.load_parameters(latest / checkpointing.TRAINED, run.trained)
        checkpointing.load_average(latest / checkpointing.AVERAGE, run.average, run.trained)
        run.accelerator.load_state(str(latest / checkpointing.STATE))
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


def test_the_cache_is_used_again(inputs, tmp_path, monkeypatch):
    train(tiny_config(inputs, tmp_path / "first", max_train_steps=1))
    entries = len(LatentCache(inputs / "latents").shards)
    monkeypatch.setattr(
        "stableviton_core.training.batches.encode_samples",
        lambda *_: pytest.fail("it encodes what the cache holds"),
    )
    train(tiny_config(inputs, tmp_path / "second", max_train_steps=1))
    assert len(LatentCache(inputs / "latents").shards) == entries >= 12
