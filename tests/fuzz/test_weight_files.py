"""Seeded damage to weight files: what reads them gives a result or our error, soon and in little
memory. The counts by category (`--log-cli-level INFO`) are in docs/reliability.md."""

import logging
from collections import Counter
from pathlib import Path

import pytest

from helpers.limits import require_limits
from helpers.mutations import Mutator
from stableviton_core.errors import StableVITONError
from stableviton_core.model.convert import convert
from stableviton_core.model.lora import read_lora
from stableviton_core.model.pretrained import load_model
from stableviton_core.training.finetune_vae import load_vae
from stableviton_core.training.initialization import initialize_checkpoint

_log = logging.getLogger(__name__)
WRITTEN = "written.safetensors"


def convert_file(file: Path) -> None:
    convert(file, file.with_name(WRITTEN), "fp32")


def initialize(file: Path) -> None:
    initialize_checkpoint(file, file.with_name(WRITTEN))


READERS = (load_model, read_lora, load_vae, convert_file, initialize)


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param(range(100), id="100"),
        pytest.param(range(100, 1000), id="900 more", marks=pytest.mark.slow),
    ],
)
def test_damaged_weight_files_give_a_result_or_our_error(tmp_path, numbers):
    mutator = Mutator(tmp_path)
    refused, accepted = Counter[str](), Counter[str]()
    for number in numbers:
        category, file = mutator.write(number)
        for read in READERS:
            with require_limits(file.stat().st_size):
                try:
                    read(file)
                    accepted[category] += 1
                except StableVITONError as error:
                    assert file.name in str(error), error
                    refused[category] += 1
        file.unlink()
        assert {path.name for path in tmp_path.iterdir()} <= {WRITTEN}
    for category in sorted(accepted | refused):
        _log.info("%s: %d refused, %d read", category, refused[category], accepted[category])
    assert refused["code in a pickle"] and not accepted["code in a pickle"]
    assert accepted["bytes changed"], "weights of other values are weights"
