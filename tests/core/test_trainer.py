"""Training runs: what they train, their losses, their validation images, and why they stop."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from helpers.training import HEIGHT, PROPORTIONAL, WIDTH, equal_weights, same_step, tiny_config
from stableviton_core.errors import StableVITONError
from stableviton_core.model.attention_recorder import token_grid
from stableviton_core.training import trainer
from stableviton_core.training.checkpointing import WEIGHTS, list_checkpoints
from stableviton_core.training.latent_cache import LatentCache
from stableviton_core.training.losses import (
    correspondence_loss,
    make_model_inputs,
    sample_timesteps_and_noise,
)
from stableviton_core.training.trainer import Trainer, train

PLAIN = {"augmentation": False}


def test_only_the_chosen_parameters_change(inputs, tmp_path):
    before = load_file(inputs / "tiny.safetensors")
    after = load_file(train(tiny_config(inputs, tmp_path / "run", use_ema=True)) / WEIGHTS)
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    trained = ("control_model.", "model.diffusion_model.warp_", "proj_out.", "learnable_vector")
    assert changed and all(key.startswith(trained) for key in changed)
    for prefix in trained:
        assert any(key.startswith(prefix) for key in changed), prefix


def test_the_input_convolution_is_trained_on_request(inputs, tmp_path):
    folder = train(tiny_config(inputs, tmp_path / "run", max_train_steps=1, train_input_conv=True))
    key = "model.diffusion_model.input_blocks.0.0.weight"
    before = load_file(inputs / "tiny.safetensors")[key]
    assert not torch.equal(before, load_file(folder / WEIGHTS)[key])


def test_latents_on_the_fly_give_the_same_run(inputs, tmp_path):
    folders = [
        train(tiny_config(inputs, tmp_path / str(cached), cache_latents=cached, **PROPORTIONAL))
        for cached in (True, False)
    ]
    assert same_step(inputs, *folders)


def test_gradient_checkpointing_gives_the_same_run(inputs, tmp_path):
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
    assert equal_weights(*(folder / WEIGHTS for folder in folders))


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


def measure_correspondence(inputs: Path, weights: Path, output: Path) -> float:
    """The correspondence loss of block 0 on the training data."""
    run = Trainer(tiny_config(inputs, output, init=weights, correspondence_blocks=(0,), **PLAIN))
    batch = run.dataset.collate([run.dataset[pair, 0] for pair in range(len(run.pairs))])
    sampled = sample_timesteps_and_noise(0, 0, batch.person.shape, 0)
    with torch.no_grad():
        run.wrapped_model(**make_model_inputs(batch, sampled))
    grid = token_grid(run.model.config.network, 0, *batch.person.shape[2:])
    return correspondence_loss(run.attention.maps[0], grid, batch.garment_coordinates).item()


def test_the_attention_learns_the_correspondence(inputs, tmp_path):
    errors = {}
    for blocks in ((), (0,)):
        changes = {"correspondence_blocks": blocks, "correspondence_weight": 1.0, **PLAIN}
        output = tmp_path / f"blocks-{len(blocks)}"
        folder = train(tiny_config(inputs, output, max_train_steps=60, **changes))
        errors[blocks] = measure_correspondence(inputs, folder / WEIGHTS, tmp_path / "measured")
    assert errors[0,] < errors[()] - 0.5, errors


def test_the_correspondence_loss_needs_garment_coordinates(inputs, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(inputs / "data", data)
    shutil.rmtree(data / "train/gt_cloth_coordinates")
    message = "correspondence_blocks needs .* in the folder gt_cloth_coordinates; 6 have none"
    with pytest.raises(StableVITONError, match=message):
        train(tiny_config(inputs, tmp_path / "run", data=data, correspondence_blocks=(0,)))


def test_validation_images_and_scalars_are_written(inputs, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    output = tmp_path / "run"
    train(
        tiny_config(
            inputs,
            output,
            phase="atv",
            validation_steps=2,
            num_validation_images=2,
            num_inference_steps=2,
        )
    )
    grid = np.asarray(Image.open(output / trainer.VALIDATION_IMAGE))
    assert grid.shape == (2 * HEIGHT, 4 * WIDTH, 3)
    first = np.asarray(Image.open(inputs / "data/test/cloth/00000_01.png"))
    assert np.array_equal(grid[:HEIGHT, :WIDTH], first)
    events = EventAccumulator(str(output / "logs"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    names = {"loss", "loss/noise", "loss/atv", "learning_rate", "gradient_norm"}
    assert names | {"samples_per_second"} <= set(events.Tags()["scalars"])
    for name in ("gradient_norm", "samples_per_second"):
        assert all(event.value > 0 for event in events.Scalars(name))
    total, noise, atv = (events.Scalars(n)[0].value for n in ("loss", "loss/noise", "loss/atv"))
    assert atv > 0 and total == pytest.approx(noise + atv)
    assert [event.step for event in events.Images("validation")] == [2, 4]


def test_a_killed_and_resumed_run_logs_each_step_once(inputs, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tiny_config(inputs, tmp_path / "run", checkpointing_steps=2)
    train_step = Trainer.train_step

    def stop_at_step_4(run, batches):
        if run.step == 3:
            raise RuntimeError("killed")
        return train_step(run, batches)

    monkeypatch.setattr(Trainer, "train_step", stop_at_step_4)
    with pytest.raises(RuntimeError, match="killed"):
        train(config)
    monkeypatch.undo()
    train(replace(config, resume_from_checkpoint="latest"))
    events = EventAccumulator(str(tmp_path / "run/logs"))
    events.Reload()
    for name in ("loss", "gradient_norm", "learning_rate"):
        assert [event.step for event in events.Scalars(name)] == [1, 2, 3, 4], name


def test_a_loss_that_is_nan_stops_the_run(inputs, tmp_path, monkeypatch):
    compute_loss, calls = trainer.compute_loss, []

    def compute_nan(*arguments):
        calls.append(arguments)
        factor = float("nan") if len(calls) == 4 else 1
        return {name: factor * term for name, term in compute_loss(*arguments).items()}

    monkeypatch.setattr(trainer, "compute_loss", compute_nan)
    with pytest.raises(StableVITONError) as caught:
        train(tiny_config(inputs, tmp_path / "run"))
    message = str(caught.value)
    assert "loss of step 4 is nan" in message and "checkpoint-00000002" in message
    assert message.count("+0000") == 2, "the two pairs of the batch by name"
    (kept,) = list_checkpoints(tmp_path / "run")
    assert load_file(kept / WEIGHTS)


def test_a_gradient_that_is_nan_never_reaches_the_weights(inputs, tmp_path, monkeypatch):
    compute_loss = trainer.compute_loss

    def add_nan_gradient(config, network, prediction, *rest):
        zero = prediction.sum() - prediction.detach().sum()
        terms = compute_loss(config, network, prediction, *rest)
        return terms | {"nan": 0 * zero.sqrt()}  # sqrt has no derivative at 0

    monkeypatch.setattr(trainer, "compute_loss", add_nan_gradient)
    with pytest.raises(StableVITONError, match="gradient of step 1 is nan"):
        train(tiny_config(inputs, tmp_path / "run"))
    assert not list_checkpoints(tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phase": "atv", "atv_blocks": (9,)}, r"0\.\.1.*got \[9\]"),
        ({"correspondence_blocks": (2,)}, r"0\.\.1.*got \[2\]"),
        ({"lr_scheduler": "sinus"}, "'sinus' is not a valid"),
        ({"validation_steps": 1, "validation_pairs": "none.txt"}, "none.txt is not there"),
        ({"train_patterns": ("nothing",)}, "no parameter has a name like 'nothing'"),
        ({"mixed_precision": "fp16"}, "fp16 needs a GPU.*bf16"),
    ],
)
@pytest.mark.usefixtures("fresh_accelerate")
def test_wrong_settings_are_found_before_encoding(inputs, tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr(trainer, "make_dataset", lambda *_: pytest.fail("it encodes first"))
    with pytest.raises(StableVITONError, match=message):
        train(tiny_config(inputs, tmp_path / "run", **changes))


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.usefixtures("fresh_accelerate")
def test_the_second_phase_uses_the_cache_of_the_first(inputs, tmp_path, monkeypatch, precision):
    """Its initial checkpoint is in half precision, and the cache lies beside the outputs."""
    changes = {"cache_dir": None, "max_train_steps": 1, "mixed_precision": precision}
    config = tiny_config(inputs, tmp_path / "base", save_dtype="fp16", **changes)
    assert config.cache_folder == tmp_path / "latents"
    start = train(config) / WEIGHTS
    entries = set(LatentCache(tmp_path / "latents").shards)
    assert len(entries) == 12
    monkeypatch.setattr(
        "stableviton_core.training.latent_cache.encode_samples",
        lambda *_: pytest.fail("it encodes what the cache holds"),
    )
    train(tiny_config(inputs, tmp_path / "atv", init=start, phase="atv", **changes))
    assert set(LatentCache(tmp_path / "latents").shards) == entries
    assert not (tmp_path / "base/latents").exists()
