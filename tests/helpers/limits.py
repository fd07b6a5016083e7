"""Limits of time and memory for a block of code, in this process (Linux)."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS = 20.0
MEMORY = 1 << 30


@contextmanager
def require_limits(size: int = 0) -> Iterator[None]:
    """AssertionError where the block takes SECONDS, or MEMORY bytes more than `size`."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = _read_peak(), time.monotonic()
    yield
    seconds, memory = time.monotonic() - start, _read_peak() - before
    assert seconds < SECONDS, f"took {seconds:.0f} s"
    assert memory < size + MEMORY, f"took {memory / 1e6:.0f} MB"


def _read_peak() -> int:
    """The most memory that this process has had at once, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) << 10
