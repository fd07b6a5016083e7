"""Reading tensors from files that nobody vouches for: .safetensors, and pickles of PyTorch.

What a file is, its content says, not its ending. No code in a file runs, and it takes no more
memory than its own size.
"""

import io
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError

Weights = dict[str, Tensor]
Metadata = dict[str, str]
ReadSafetensors = Callable[[Path], tuple[Weights, Metadata | None]]

ZIP_START, PICKLE_START = b"PK\x03\x04", b"\x80"
MAX_INSTRUCTIONS = 256 << 20  # bytes of a pickle without the tensors, those of released files 1 MB
LIGHTNING = ("pytorch_lightning", "lightning.pytorch")
LEGACY_PICKLES = 5  # in a file of before PyTorch 1.6; the fourth is the object
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


# What a pickle of tensors names.
TENSOR_GLOBALS = frozenset(
    {
        "collections.OrderedDict",
        "torch.Size",
        "torch.device",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch.nn.parameter.Parameter",
    }
    | {f"{storage.__module__}.{storage.__name__}" for storage in torch._storage_classes}
    | {str(dtype) for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
)
# What Lightning's files name besides: its callback, and numpy's numbers.
OMITTED_GLOBALS = frozenset(
    {f"{package}.callbacks.model_checkpoint.ModelCheckpoint" for package in LIGHTNING}
    | {"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype"}
)
ALLOWED_GLOBALS = TENSOR_GLOBALS | OMITTED_GLOBALS | {"_codecs.encode", "__builtin__.set"}


@contextmanager
def explain_unreadable(name: str) -> Iterator[None]:
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
    path: Path, read_safetensors: ReadSafetensors = read_safetensors
) -> tuple[Weights, Metadata]:
    """Tensors and metadata of a .safetensors or a pickled checkpoint, memory-mapped where it can
    be. read_safetensors: reads a file of that format. CheckpointError names a file that cannot be
    read."""
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file.")
    with explain_unreadable(str(path)):
        if is_safetensors(path):
            weights, metadata = read_safetensors(path)
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
    (_check_zip if zipped else _check_legacy)(path)
    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
    with torch.serialization.safe_globals([(_Omitted, name) for name in OMITTED_GLOBALS]):
        if zipped and path.suffix != ".safetensors":  # torch goes by that ending, where it may map
            loaded = torch.load(path, mmap=True, **options)
        else:
            with path.open("rb") as file:
                loaded = torch.load(file, **options)
    weights = select_tensors(loaded)
    claimed, size = sum(value.nbytes for value in weights.values()), path.stat().st_size
    if claimed > 2 * size:  # tensors that share memory are there twice at most
        raise ValueError(f"its tensors take {claimed} bytes, and it has {size}")
    return weights


def _check_zip(path: Path) -> None:
    """ValueError where members are compressed, so that they could take any size, or the pickle
    names something else than ALLOWED_GLOBALS."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"its member {member.filename} is compressed")
        for name in archive.namelist():
            if name.endswith("data.pkl"):
                with archive.open(name) as file:
                    _check_globals(io.BytesIO(file.read(MAX_INSTRUCTIONS)))


def _check_legacy(path: Path) -> None:
    with path.open("rb") as file:
        for _ in range(LEGACY_PICKLES):
            _check_globals(file)


def _check_globals(file: IO[bytes]) -> None:
    """ValueError where a pickle names something else than ALLOWED_GLOBALS."""
    for opcode, argument, position in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            name = str(argument).replace(" ", ".")
            if name not in ALLOWED_GLOBALS:
                raise ValueError(f"it names {name}, which weights do not need")
        elif position is not None and position > MAX_INSTRUCTIONS:
            raise ValueError("its pickle is larger than those of weights")


def select_tensors(loaded: Any) -> Weights:
    """The state dict in a loaded file: its own entries, or those of its entry "state_dict"."""
    weights = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    return {
        key: value
        for key, value in weights.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
