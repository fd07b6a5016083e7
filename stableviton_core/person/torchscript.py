"""TorchScript files, which are programs: loaded only where the user has allowed the exact file."""

from pathlib import Path

import torch
from torch import nn

from ..errors import StableVITONError, first_line
from ..files import hash_file

ALLOWED_ENDING = ".sha256"  # of the text file beside it that allows a file, as sha256sum writes it


def load_torchscript(path: Path) -> nn.Module:
    """A network on the CPU. StableVITONError where the file is missing or no TorchScript, or
    PATH.sha256 does not hold its SHA-256."""
    if not path.is_file():
        raise StableVITONError(f"{path} is not a file.")
    _require_allowed(path)
    try:
        return torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise StableVITONError(
            f"{path.name} cannot be loaded as TorchScript ({first_line(error)}). Download it again."
        ) from error


def _require_allowed(path: Path) -> None:
    allowed = path.with_name(path.name + ALLOWED_ENDING)
    try:
        words = allowed.read_text(encoding="utf-8-sig").split()
    except FileNotFoundError:
        words = []
    except (OSError, UnicodeDecodeError) as error:
        raise StableVITONError(f"{allowed} cannot be read: {error}") from error
    digest = hash_file(path)
    if not words or words[0].lower() != digest:
        was = f"{allowed.name} allows another file ({words[0]})" if words else "nothing allows it"
        raise StableVITONError(
            f"{path.name} is TorchScript: a program, which could do anything when it is loaded, "
            f"and {was}. Compare its SHA-256, {digest}, with the one on the page of its publisher. "
            f"If they agree, allow it: write that number into {allowed}."
        )
