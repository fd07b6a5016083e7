"""Every numeric setting of a training has a range, and a value outside is refused by name."""

import math
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from stableviton_core.__main__ import parse_arguments
from stableviton_core.training.config import TrainConfig, VaeConfig
from stableviton_core.training.ranges import RANGES, Range

FILES = {"data": Path("d"), "init": Path("i"), "output": Path("o.safetensors")}


def is_numeric(kind: object) -> bool:
    """int, float, these or None, and tuples of them; a bool is no number here."""
    return kind in (int, float) or any(is_numeric(part) for part in get_args(kind))


NUMERIC = [
    (kind, field.name)
    for kind in (TrainConfig, VaeConfig)
    for field in fields(kind)
    if is_numeric(get_type_hints(kind)[field.name])
]


def make(kind, name: str, value: float):
    is_tuple = "tuple" in str(get_type_hints(kind)[name])
    return kind(**FILES, **{name: (value,) if is_tuple else value})


@pytest.mark.parametrize(("kind", "name"), NUMERIC)
def test_every_numeric_setting_has_a_range(kind, name):
    assert name in RANGES, "give the new setting a range in training/ranges.py"
    allowed = RANGES[name]
    outside = [allowed.low - 1, -math.inf, math.inf, math.nan]
    outside += [allowed.high + 1] if math.isfinite(allowed.high) else []
    outside += [allowed.low] if allowed.above else []
    outside += [allowed.high] if allowed.below else []
    for value in outside:
        with pytest.raises(ValueError, match=f"{name} must be .*, got") as caught:
            make(kind, name, value)
        assert str(allowed) in str(caught.value) and str(value) in str(caught.value)
    if not allowed.above:
        make(kind, name, allowed.low)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("max_grad_norm", -1), ("max_grad_norm", 0), ("learning_rate", -1e-4), ("seed", -1)),
        *(("dataloader_num_workers", -1), ("ema_decay", 2), ("adam_beta1", 1), ("height", 100)),
        *(("lr_warmup_steps", -5), ("adam_epsilon", 0), ("num_inference_steps", 1001)),
        *(("atv_weight", math.nan), ("cond_drop_prob", 1.5), ("atv_blocks", -1)),
    ],
)
def test_what_once_passed_silently_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        make(TrainConfig, name, value)


def test_all_problems_are_listed_at_once(capsys):
    with pytest.raises(SystemExit) as caught:
        parse_arguments(
            [
                *("train", "--data", "d", "--init", "i", "--output", "o"),
                *("--max_grad_norm=-1", "--seed=-1"),
            ]
        )
    assert caught.value.code == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "max_grad_norm must be above 0, got -1.0" in message
    assert "seed must be at least 0 and at most 4294967295, got -1" in message


def test_a_range_is_said_in_words():
    assert str(Range(low=8, multiple=8)) == "a multiple of 8, at least 8"
    assert str(Range(high=1, below=True)) == "at least 0 and below 1"
