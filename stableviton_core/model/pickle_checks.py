"""What a pickle of weights may say, checked before PyTorch reads it: names that tensors need, and
no small text that becomes a large object.

PyTorch's `weights_only` refuses code, but calls what it allows with any argument: a bytearray of
any size, or an OrderedDict of one large dictionary again and again.
"""

import io
import pickletools
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

MAX_INSTRUCTIONS = 8 << 20  # bytes of a pickle without the tensors; those of released files 1 MB
LEGACY_PICKLES = 5  # in a file of before PyTorch 1.6; the fourth is the object
LIGHTNING = ("pytorch_lightning", "lightning.pytorch")

# What a pickle of tensors names.
TENSOR_GLOBALS = frozenset(
    {
        "collections.OrderedDict",
        "torch.Size",
        "torch.device",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch.nn.parameter.Parameter",
    }
    | {f"{storage.__module__}.{storage.__name__}" for storage in torch._storage_classes}
    | {str(dtype) for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
)
# What Lightning's files name besides, and what is read as an empty object: its callback, and
# numpy's numbers, whose bytes are text in Latin-1 there.
OMITTED_GLOBALS = frozenset(
    {f"{package}.callbacks.model_checkpoint.ModelCheckpoint" for package in LIGHTNING}
    | {"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype"}
)
ENCODE = "_codecs.encode"
ALLOWED_GLOBALS = TENSOR_GLOBALS | OMITTED_GLOBALS | {ENCODE, "__builtin__.set"}
COPYING = frozenset({"collections.OrderedDict", "__builtin__.set", "torch.Size", ENCODE})
ENCODING = "latin1"

TUPLES = ("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
# Stand for an object, and for a tuple, that is taken from the memo, not written out.
AGAIN, TUPLE_AGAIN = "again", "tuple again"


def check_zip(path: Path) -> None:
    """ValueError where a zip is no PyTorch file of weights: a program, members that are compressed,
    and so could take any size, or of one name, or a pickle that `check_pickle` refuses."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [member.filename.lower() for member in members]  # PyTorch ignores the case
        if len(set(names)) < len(names):
            raise ValueError("several of its members have one name")
        if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
            raise ValueError("it is TorchScript, a program")
        for name, member in zip(names, members, strict=True):
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"its member {member.filename} is compressed")
            if name.endswith(".pkl"):
                if member.file_size > MAX_INSTRUCTIONS:
                    raise ValueError(f"its member {member.filename} is too large for weights")
                with archive.open(member) as file:
                    check_pickle(io.BytesIO(file.read()))


def check_legacy(path: Path) -> None:
    """As `check_zip`, for a file of before PyTorch 1.6."""
    with path.open("rb") as file:
        for _ in range(LEGACY_PICKLES):
            check_pickle(file)


def check_pickle(file: IO[bytes]) -> None:
    """ValueError where a pickle names something else than ALLOWED_GLOBALS, has more than
    MAX_INSTRUCTIONS, or would copy objects that it has written once.

    It is followed as a machine with a stack does, without making its objects: the stack holds a
    global's name, the items of a tuple, AGAIN or TUPLE_AGAIN for what comes from the memo, or else
    None.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    start = file.tell()
    for opcode, argument, _ in pickletools.genops(file):
        if file.tell() - start > MAX_INSTRUCTIONS:
            raise ValueError("its pickle is too large for weights")
        if "PUT" in opcode.name:
            memo[argument] = stack[-1]
            continue
        if opcode.name == "MARK":
            marks.append(len(stack))
            continue
        items = _pop(stack, marks, opcode)
        if opcode.name == "GLOBAL":
            stack.append(_check_name(str(argument).replace(" ", ".")))
        elif "GET" in opcode.name:
            stack.append(_recall(memo[argument]))
        elif opcode.name in TUPLES:
            if TUPLE_AGAIN in items and sum(map(_is_tuple, items)) > 1:
                raise ValueError("it nests tuples in themselves, which takes for ever to compare")
            stack.append(items)
        else:
            if opcode.name in ("REDUCE", "NEWOBJ"):
                _check_call(*items)
            elif opcode.name == "BUILD" and items[1] in (AGAIN, TUPLE_AGAIN):
                raise ValueError("it copies an object again and again")
            stack.extend([_keep_text(opcode.name, argument)] * len(opcode.stack_after))


def _pop(stack: list[Any], marks: list[int], opcode: pickletools.OpcodeInfo) -> list[Any]:
    """Take off the stack what an instruction takes, the first of it first."""
    before = opcode.stack_before
    if pickletools.markobject in before:
        mark, below = marks.pop(), len(before) - 2  # the mark and what is above it
    else:
        mark, below = len(stack), len(before)
    start = mark - below
    items = stack[start:]
    del stack[start:]
    return items


def _recall(value: Any) -> str:
    if isinstance(value, str):
        return value
    return TUPLE_AGAIN if isinstance(value, list) else AGAIN


def _is_tuple(value: Any) -> bool:
    return isinstance(value, list) or value == TUPLE_AGAIN


def _keep_text(opcode: str, argument: Any) -> str | None:
    """The name of the one encoding that is allowed; other values do not matter."""
    return ENCODING if argument == ENCODING and "UNICODE" in opcode else None


def _check_name(name: str) -> str:
    if name not in ALLOWED_GLOBALS:
        raise ValueError(f"it names {name}, which weights do not need")
    return name


def _check_call(function: Any, arguments: Any) -> None:
    if function not in COPYING:
        return
    if not isinstance(arguments, list) or arguments[:1] in ([AGAIN], [TUPLE_AGAIN]):
        raise ValueError(f"it copies an object again and again with {function}")
    if function == ENCODE and arguments[1:] != [ENCODING]:
        raise ValueError(f"it encodes text in another way than {ENCODING}")
