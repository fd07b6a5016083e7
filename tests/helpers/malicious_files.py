"""Pickled files that contain code."""

from pathlib import Path

import torch


class _Touch:
    """Creates a file when its pickle is loaded without restrictions."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def write_malicious_file(path: Path, created: Path) -> None:
    """Write a checkpoint that creates the file `created` if code in it runs."""
    torch.save({"state_dict": {"x": torch.zeros(1)}, "malicious": _Touch(created)}, path)
