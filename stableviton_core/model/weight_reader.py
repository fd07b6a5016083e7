"""Reading tensors from files that nobody vouches for: .safetensors, and pickles of PyTorch.

What a file is, its content says, not its ending. No code in a file runs, and it takes little more
memory than it has bytes.
"""

import pickle
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError
from .pickle_checks import OMITTED_GLOBALS, check_legacy, check_zip

Weights = dict[str, Tensor]
Metadata = dict[str, str]
ReadSafetensors = Callable[[Path], tuple[Weights, Metadata | None]]

ZIP_START, PICKLE_START = b"PK\x03\x04", b"\x80"
OLDEST_TORCH = "2.6"  # that reads pickles with a list of names
UNREADABLE = (
    *(SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, OSError),
    *(ArithmeticError, LookupError, AssertionError, AttributeError, TypeError, ValueError),
    *(MemoryError, RuntimeError),
)


class _Omitted:
    """Stands in for what files name besides tensors. It keeps nothing that it is given."""

    def __new__(cls, *arguments: object) -> "_Omitted":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


_globals_lock = threading.Lock()


@contextmanager
def _allow_omitted_globals() -> Iterator[None]:
    """In the block PyTorch's unpickler allows OMITTED_GLOBALS and nothing that others, such as
    ComfyUI, have allowed by those names."""
    with _globals_lock:
        others = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals([(_Omitted, name) for name in OMITTED_GLOBALS])
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(others)


@contextmanager
def _explain_unreadable(name: str) -> Iterator[None]:
    """CheckpointError in place of what libraries raise on a file without readable weights. name: of
    the file."""
    try:
        yield
    except CheckpointError:
        raise
    except UNREADABLE as error:
        reason = (str(error).splitlines() or ["empty file"])[0][:300]
        raise CheckpointError(
            f"{name} cannot be read as weights ({type(error).__name__}: {reason}). It is "
            "truncated, holds something else, or wants to run code, which is never done. Download "
            "it again, or save its weights as .safetensors."
        ) from error


@contextmanager
def explain_file(path: Path) -> Iterator[None]:
    """The file's name before a CheckpointError about what it holds."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def read_safetensors(path: Path) -> tuple[Weights, Metadata]:
    """Tensors, memory-mapped, and metadata."""
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}


def read_weights(
    path: Path, read_tensors: ReadSafetensors = read_safetensors, name: str | None = None
) -> tuple[Weights, Metadata]:
    """Tensors and metadata of a .safetensors or a pickled checkpoint, memory-mapped where it can
    be. read_tensors: reads a file of the first format. name: of the file in errors, by default its
    path. CheckpointError where a file cannot be read."""
    if not path.is_file():
        raise CheckpointError(f"{name or path} is not a file.")
    with _explain_unreadable(name or str(path)):
        if is_safetensors(path):
            weights, metadata = read_tensors(path)
            return weights, metadata or {}
        return _read_pickle(path), {}


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as .safetensors do: with the length of a JSON object."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and start[:4] != ZIP_START


def _read_pickle(path: Path) -> Weights:
    """CheckpointError and the errors of UNREADABLE."""
    with path.open("rb") as file:
        start = file.read(len(ZIP_START))
    zipped = start == ZIP_START  # only these can be mapped
    if not zipped and not start.startswith(PICKLE_START):
        raise ValueError(
            f"it begins with {start!r}, as neither .safetensors nor PyTorch's files do"
        )
    if torch.__version__ < OLDEST_TORCH:
        raise CheckpointError(
            f"{path.name} is a pickle, which is read with PyTorch 2.6 or newer; this is "
            f"{torch.__version__}. Update it, or convert the file elsewhere with `python -m "
            "stableviton_core convert`."
        )
    (check_zip if zipped else check_legacy)(path)
    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
    with _allow_omitted_globals():
        if zipped and path.suffix != ".safetensors":  # torch goes by that ending, where it may map
            loaded = torch.load(path, mmap=True, **options)
        else:
            with path.open("rb") as file:
                loaded = torch.load(file, **options)
    weights = _select_tensors(loaded)
    claimed, size = sum(value.nbytes for value in weights.values()), path.stat().st_size
    if claimed > 2 * size:  # tensors that share memory are there twice at most
        raise ValueError(f"its tensors take {claimed} bytes, and it has {size}")
    return weights


def _select_tensors(loaded: Any) -> Weights:
    """The state dict in a loaded file: its own entries, or those of its entry "state_dict"."""
    weights = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    return {
        key: value
        for key, value in weights.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
