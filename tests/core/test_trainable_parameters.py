"""Choosing trained parameters by checkpoint names, and the configuration of a training run."""

import pytest
import torch

from helpers.training import TINY
from stableviton_core.__main__ import parse_arguments
from stableviton_core.errors import StableVITONError
from stableviton_core.model.checkpoint import join
from stableviton_core.model.config import ModelConfig
from stableviton_core.model.tryon_model import TryOnModel
from stableviton_core.training.config import TrainConfig
from stableviton_core.training.trainable_parameters import (
    INPUT_CONVOLUTION,
    checkpoint_name,
    choose_trainable,
    format_counts,
)

RELEASED = TrainConfig.train_patterns


def parse(*arguments: object) -> TrainConfig:
    return parse_arguments(["train", *map(str, arguments)])[1]["config"]


def test_every_parameter_has_its_checkpoint_name():
    model = TryOnModel(TINY)
    expected = set(join(model.components()))
    assert {checkpoint_name(name)[1] for name, _ in model.named_parameters()} == expected


def test_the_released_trainable_set():
    with torch.device("meta"):
        model = TryOnModel(ModelConfig())
    counts = choose_trainable(model, RELEASED)
    assert counts["unet"][0] == 0 and counts["clip"][0] == 0
    unused = sum(p.numel() for p in model.network.encoder.unused_parameters())
    assert unused > 170e6 and counts["encoder"][0] == counts["encoder"][1] - unused
    assert counts["zero_cross_attention"][0] == counts["zero_cross_attention"][1]
    assert counts["image_projector"][0] == 1024 * 768 + 768 + 768
    assert not model.trains_embedding()
    choose_trainable(model, (*RELEASED, INPUT_CONVOLUTION))
    entry = model.network.unet.input_blocks[0][0]
    assert entry.weight.requires_grad and not model.network.unet.out[2].weight.requires_grad
    text = format_counts(counts)
    assert (
        f"{counts['encoder'][0]:,}" in text
        and f"{counts['encoder'][1]:,}" in text
        and text.startswith("trained parameters")
    )


def test_exceptions_win_and_unknown_patterns_are_errors():
    model = TryOnModel(TINY)
    choose_trainable(model, ["*"], ["model.diffusion_model.out.*"])
    assert not any(p.requires_grad for p in model.network.unet.out.parameters())
    assert model.trains_embedding()
    assert not any(p.requires_grad for p in model.network.encoder.unused_parameters())
    with pytest.raises(StableVITONError, match="'zero_cross_attention.\\*'"):
        choose_trainable(model, ["control_model.*", "zero_cross_attention.*"])


def test_yaml_and_flags_set_the_same_configuration(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("data: a\ninit: b\noutput: c\nlearning_rate: 3.0e-5\natv_blocks: [1, 2]\n")
    config = parse("--config", file, "--train-input-conv=true", "--output", "d")
    assert str(config.output) == "d" and str(config.data) == "a"
    assert config.learning_rate == 3e-5 and config.atv_blocks == (1, 2)
    assert config.train_input_conv and config.train_patterns == RELEASED


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learning_rat", "1"], "learning_rat"),
        (["--phase", "second"], "second"),
        (["--height", "100"], "height must be a multiple of 8, at least 8, got 100"),
        (["--cond_drop_prob", "2"], "must be at least 0 and at most 1, got 2"),
        (["--train_batch_size", "0"], "train_batch_size must be at least 1"),
    ],
)
def test_wrong_flags_end_with_a_message(capsys, arguments, message):
    with pytest.raises(SystemExit):
        parse("--data", "a", "--init", "b", "--output", "c", *arguments)
    assert message in capsys.readouterr().err


def test_help_explains_every_flag(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    text = capsys.readouterr().out
    for name in vars(TrainConfig("a", "b", "c")):
        assert f"--{name}" in text
    assert "Pairs per process" in " ".join(text.split())
