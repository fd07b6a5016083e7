"""What several files of tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.training import write_inputs


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """accelerate keeps a process to the precision of its first run."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A folder with what a training run of seconds takes (see `write_inputs`)."""
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder
