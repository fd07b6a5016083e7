"""LoRA: what is trained, what a run writes, and that merging equals applying."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.golden import error
from helpers.training import TINY, equal_weights, tiny_config
from stableviton_core.__main__ import main
from stableviton_core.errors import CheckpointError, StableVITONError
from stableviton_core.model.config import ModelConfig
from stableviton_core.model.config_metadata import config_to_metadata
from stableviton_core.model.convert import convert
from stableviton_core.model.lora import LORA_KEY, read_lora
from stableviton_core.model.pretrained import load_model
from stableviton_core.model.tryon_model import TryOnModel
from stableviton_core.training.checkpointing import DIGESTS, EMA, STEP_KEY, TRAINED, load_parameters
from stableviton_core.training.config import TrainConfig
from stableviton_core.training.lora import LORA, add_lora
from stableviton_core.training.trainer import Trainer, train

ROOT = Path(__file__).resolve().parents[2]
RANK = {"lora_rank": 2, "lora_alpha": 3.0}
ROUNDING = 1e-5  # some CPUs do not repeat a sum in the same order


@pytest.fixture(scope="module")
def checkpoint(inputs) -> Path:
    """The last folder of a LoRA run whose updates are large enough to see."""
    changes = {"learning_rate": 0.1, "max_grad_norm": 1e9}
    return train(tiny_config(inputs, inputs / "run", **RANK, **changes))


def predict_noise(model: TryOnModel) -> Tensor:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(2, *shape, generator=generator)

    size = (8, 6)
    return model.eval()(
        normal(13, *size),
        torch.tensor([300, 700]),
        normal(4, *size),
        torch.tensor([False, True]),
        normal(1, TINY.clip.hidden_size),
    )


def lora_config(inputs: Path, **changes) -> TrainConfig:
    return tiny_config(inputs, inputs / "unused", **(RANK | changes))


def test_the_first_step_sees_the_base_model(inputs):
    model, _, _ = load_model(inputs / "tiny.safetensors")
    before = predict_noise(model)
    add_lora(model, lora_config(inputs))
    assert error(predict_noise(model), before) <= ROUNDING


def test_the_updates_alone_are_trained(inputs):
    model, _, _ = load_model(inputs / "tiny.safetensors")
    counts = add_lora(model, lora_config(inputs))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained.keys() == {name for name, _ in model.named_parameters() if ".lora_" in name}
    expected = {"encoder": 0, "zero_cross_attention": 0}
    components = {"encoder": model.network.encoder}
    components["zero_cross_attention"] = model.network.zero_cross_attention
    for component, module in components.items():
        never_run = set(model.network.encoder.unused_parameters())
        for name, weight in module.named_parameters():
            if weight.ndim > 1 and ".lora_" not in name and weight not in never_run:
                expected[component] += 2 * (len(weight) + weight[0].numel())
    assert {name: count for name, (count, _) in counts.items() if count} == expected
    assert sum(p.numel() for p in trained.values()) == sum(expected.values())


def test_gradients_reach_all_updates_and_nothing_else(inputs, tmp_path):
    """Behind an encoder's attention to a single token, queries and keys have none."""
    run = Trainer(tiny_config(inputs, tmp_path / "run", **RANK))
    for name, parameter in run.trained.items():
        if ".lora_up" in name:
            torch.nn.init.ones_(parameter)
    x = predict_noise(run.model)
    x.square().sum().backward()
    for name, parameter in run.model.named_parameters():
        if ".lora_" not in name:
            assert parameter.grad is None, name
        elif "encoder" not in name or ".attn2.to_q" not in name and ".attn2.to_k" not in name:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_a_checkpoint_is_a_small_file_with_its_description(checkpoint):
    assert {path.name for path in checkpoint.iterdir()} == {LORA, TRAINED, DIGESTS, "state"}
    with safe_open(checkpoint / LORA, "pt") as file:
        metadata, keys = file.metadata(), set(file.keys())
    assert json.loads(metadata[LORA_KEY]) == {"rank": 2, "alpha": 3.0}
    assert metadata[STEP_KEY] == "4"
    assert config_to_metadata(TINY).items() <= metadata.items()
    name = "model.diffusion_model.warp_flow_blks.0.transformer_blocks.0.attn2.to_k"
    assert {f"{name}.lora_down.weight", f"{name}.lora_up.weight", f"{name}.alpha"} <= keys


@pytest.mark.parametrize(("rank", "megabytes"), [(4, 4.3), (8, 8.6)])
def test_the_file_at_the_released_size(rank, megabytes):
    with torch.device("meta"):
        model = TryOnModel(ModelConfig())
    config = TrainConfig(Path(), Path(), Path(), lora_rank=rank)
    counts = add_lora(model, config)
    assert 2 * sum(count for count, _ in counts.values()) / 1e6 == pytest.approx(megabytes, 0.01)


def test_merging_equals_applying(inputs, checkpoint, tmp_path):
    base = inputs / "tiny.safetensors"
    applied, _, _ = load_model(base)
    untrained = predict_noise(applied)
    add_lora(applied, lora_config(inputs))
    trained = {name: p for name, p in applied.named_parameters() if p.requires_grad}
    load_parameters(checkpoint / TRAINED, trained)
    expected = predict_noise(applied)
    convert(base, tmp_path / "merged.safetensors", "fp32", [checkpoint / LORA])
    merged, _, _ = load_model(tmp_path / "merged.safetensors")
    assert error(predict_noise(merged), expected) <= 2 * ROUNDING
    assert error(untrained, expected) > 1e-2, "the run trained nothing"


def test_merging_with_a_strength(inputs, checkpoint, tmp_path):
    base = inputs / "tiny.safetensors"
    before = load_file(base)
    loras = [checkpoint / LORA, checkpoint / LORA]
    convert(base, tmp_path / "none.safetensors", "fp32", loras, 0.0)
    assert equal_weights(base, tmp_path / "none.safetensors")
    convert(base, tmp_path / "twice.safetensors", "fp32", loras, -0.5)
    after, lora = load_file(tmp_path / "twice.safetensors"), read_lora(checkpoint / LORA)
    name = "control_model.input_blocks.1.0.in_layers.2"
    down, up = (lora.weights[f"{name}.lora_{half}.weight"] for half in ("down", "up"))
    update = 3.0 / 2 * torch.einsum("or,rikl->oikl", up[:, :, 0, 0], down)
    torch.testing.assert_close(after[f"{name}.weight"], before[f"{name}.weight"] - update)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {f"{name}.weight" for name in lora.names}
    with pytest.raises(CheckpointError, match="finite number, got nan"):
        convert(base, tmp_path / "nan.safetensors", "fp32", loras, float("nan"))


def test_a_resumed_run_equals_one_run(inputs, tmp_path):
    config = {**RANK, "use_ema": True}
    whole = train(tiny_config(inputs, tmp_path / "whole", **config))
    train(tiny_config(inputs, tmp_path / "parts", max_train_steps=2, **config))
    resumed = {"resume_from_checkpoint": "latest", **config}
    parts = train(tiny_config(inputs, tmp_path / "parts", **resumed))
    for file in (LORA, TRAINED, EMA):
        assert equal_weights(whole / file, parts / file)


def test_another_rank_is_no_resumed_run(inputs, tmp_path):
    config = tiny_config(inputs, tmp_path / "run", max_train_steps=1, **RANK)
    train(config)
    other = replace(config, lora_rank=5, resume_from_checkpoint="latest", allow_changed=True)
    with pytest.raises(StableVITONError, match="shape .* Resume with the init and lora_rank"):
        train(other)


def test_gradient_checkpointing_gives_the_same_run(inputs, tmp_path):
    folders = [
        train(
            tiny_config(
                inputs,
                tmp_path / str(recompute),
                max_train_steps=2,
                phase="atv",
                gradient_checkpointing=recompute,
                **RANK,
            )
        )
        for recompute in (False, True)
    ]
    assert equal_weights(*(folder / LORA for folder in folders))


@pytest.mark.usefixtures("fresh_accelerate")
def test_updates_stay_whole_beside_half_precision_weights(inputs, tmp_path):
    run = Trainer(tiny_config(inputs, tmp_path / "run", mixed_precision="bf16", **RANK))
    dtypes = {p.requires_grad: p.dtype for p in run.model.network.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    assert load_file(run.train() / LORA)


def test_patterns_choose_the_layers(inputs):
    model, _, _ = load_model(inputs / "tiny.safetensors")
    changes = {"lora_patterns": ("proj_out.weight", "*attn2*"), "freeze_patterns": ("*to_out*",)}
    add_lora(model, lora_config(inputs, **changes))
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert "image_projector.proj_out.lora_up.weight" in trained
    assert all("attn2" in name or "proj_out" in name for name in trained)
    assert not any("to_out" in name for name in trained)


@pytest.mark.parametrize("pattern", ["model.diffusion_model.input_blocks.*", "learnable_vector"])
def test_a_pattern_without_a_layer(inputs, pattern):
    model, _, _ = load_model(inputs / "tiny.safetensors")
    with pytest.raises(StableVITONError, match="no layer that can have a LoRA update.*spatial"):
        add_lora(model, lora_config(inputs, lora_patterns=(pattern,)))


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_rank": -1},
        {"lora_rank": 2, "lora_alpha": 0.0},
        {"lora_rank": 2, "lora_alpha": float("nan")},
        {"lora_rank": 2, "train_input_conv": True},
    ],
)
def test_wrong_settings(inputs, tmp_path, changes):
    with pytest.raises(ValueError, match="lora_rank|lora_alpha"):
        tiny_config(inputs, tmp_path, **changes)


def change_file(source: Path, target: Path, change, **metadata: str) -> None:
    weights = load_file(source)
    change(weights)
    with safe_open(source, "pt") as file:
        save_file(weights, target, file.metadata() | metadata)


NAME = "control_model.input_blocks.1.0.in_layers.2"
WRONG_FILES = {
    "without alpha": (lambda w: w.pop(f"{NAME}.alpha"), f"{NAME}.alpha is missing"),
    "other entries": (lambda w: w.update(x=torch.zeros(1)), "x is missing or has another name"),
    "nothing": (lambda w: w.clear(), "is missing"),
    "other layer": (
        lambda w: w.update(
            {key.replace(NAME, "control_model.lin"): w.pop(key) for key in list(w) if NAME in key}
        ),
        "no linear layer or convolution control_model.lin",
    ),
    "other shape": (
        lambda w: w.update({f"{NAME}.lora_up.weight": torch.zeros(3, 2, 1, 1)}),
        r"has the shapes .* \(3, 2, 1, 1\)",
    ),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_file_with_other_content(checkpoint, tmp_path, case):
    change, message = WRONG_FILES[case]
    change_file(checkpoint / LORA, tmp_path / "wrong.safetensors", change)
    with pytest.raises(CheckpointError, match=f"is not a StableVITON LoRA: .*{message}"):
        read_lora(tmp_path / "wrong.safetensors")


def test_what_is_no_lora_or_of_another_size(inputs, checkpoint, tmp_path):
    base, target = inputs / "tiny.safetensors", tmp_path / "out.safetensors"
    with pytest.raises(CheckpointError, match="no entry 'stableviton.lora'"):
        convert(base, target, "fp32", [base])
    other = tmp_path / "other.safetensors"
    wider = json.loads(config_to_metadata(TINY)["stableviton.config"])
    wider["clip"]["image_size"] = 448
    description = {"stableviton.config": json.dumps(wider)}
    change_file(checkpoint / LORA, other, lambda weights: None, **description)
    with pytest.raises(CheckpointError, match="another size: clip.image_size 448 there and 224"):
        convert(base, target, "fp32", [other])
    assert not target.exists()


def test_the_documented_commands(tmp_path, monkeypatch):
    """As written, with fewer and smaller steps."""
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "lora.md").read_text(encoding="utf-8")
    commands = re.findall(r"^python -m stableviton_core (.*)$", text, re.M)
    assert [command.split()[0] for command in commands] == ["make-synthetic", "train", "convert"]
    shorter = {"--height 128": "--height 64", "--width 96": "--width 48", "steps 100": "steps 1"}
    for command in commands:
        for long, short in shorter.items():
            command = command.replace(long, short)
        assert main(shlex.split(command.replace("00000100", "00000001"))) == 0, command
    assert load_model(tmp_path / "merged.safetensors")
