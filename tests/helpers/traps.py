"""Files that want to run code."""

from pathlib import Path

import torch


class _Touch:
    """A pickle of this creates a file when it is unpickled carelessly."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def write_trap(path: Path, created: Path) -> None:
    """A checkpoint that creates the file `created` if code in it runs."""
    torch.save({"state_dict": {"x": torch.zeros(1)}, "trap": _Touch(created)}, path)
