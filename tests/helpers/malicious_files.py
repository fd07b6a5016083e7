"""Files that contain code, or claim more than they hold."""

import builtins
import io
import os
import pickle
import runpy
import shutil
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

GIGABYTES = 3 << 30


class Call:
    """Calls a function when its pickle is loaded without restrictions."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple]:
        return self.call


def make_code_payloads(created: Path) -> dict[str, Call]:
    """Objects that create the file or folder `created` where code in a pickle runs."""
    name, source = str(created), f"open({str(created)!r}, 'w').close()"
    return {
        "Path.touch": Call(Path.touch, created),
        "os.system": Call(os.system, f"touch {name}"),
        "os.popen": Call(os.popen, f"touch {name}"),
        "os.mkdir": Call(os.mkdir, name),
        "subprocess.run": Call(subprocess.run, ["touch", name]),
        "eval": Call(builtins.eval, source),
        "exec": Call(builtins.exec, source),
        "compiled": Call(builtins.exec, Call(builtins.compile, source, "x", "exec")),
        "open": Call(builtins.open, name, "w"),
        "copyfile": Call(shutil.copyfile, __file__, name),
        "run_path": Call(runpy.run_path, name),
        "torch.save": Call(torch.save, 0, name),
        "pickle.loads": Call(pickle.loads, pickle.dumps(Call(os.mkdir, name))),
        "torch.load": Call(torch.load, name),
        "np.save": Call(np.save, name, 0),
    }


def make_memory_payloads() -> dict[str, Any]:
    """Small objects that take GIGABYTES where they are loaded without restrictions."""
    scalar = np.float64(0).__reduce__()[0]
    return {
        "bytearray": Call(bytearray, GIGABYTES),
        "void scalar": Call(scalar, np.dtype(f"V{GIGABYTES >> 1}")),
        "range": Call(list, Call(range, GIGABYTES >> 4)),
        "expanded tensor": torch.zeros(1).expand(GIGABYTES >> 2),
        "zeros": Call(torch.zeros, GIGABYTES >> 2),
    }


def make_copying_payloads() -> dict[str, bytes]:
    """Pickles of little text that copy what they have written, so that it doubles or multiplies.
    Instructions of an object, without the protocol before it and the dot after it."""
    encode, ordered = b"c_codecs\nencode\n", b"ccollections\nOrderedDict\n"
    doubled = encode + b"(" + _write_text("a" * 1000) + _write_text("latin1") + b"tR"
    for _ in range(22):
        doubled = encode + b"(" + doubled + _write_text("hex") + b"tR"
    entries = b"".join(_write_text(f"{index:04}") + b"N" for index in range(2000))
    kept = b"(" + ordered + b"q\x00}(" + entries + b"uq\x01"  # the function is 0, a dictionary 1
    text = b"(" + encode + b"q\x00" + _write_text("a" * 10_000) + b"q\x01"
    return {
        "doubled": doubled,
        "dictionaries": kept + b"h\x00h\x01\x85R" * 20_000 + b"t",
        "arguments": kept + b"h\x01\x85q\x02" + b"h\x00h\x02R" * 20_000 + b"t",
        "states": kept + b"h\x00)Rh\x01b" * 20_000 + b"t",
        "texts": text + (b"h\x00h\x01" + _write_text("latin1") + b"\x86R") * 200_000 + b"t",
        "nested": b"}(K\x01K\x02\x86" + (b"q\x00h\x00\x86" * 60) + b"Nu",
        "many": b"(" + b"}" * (9 << 20) + b"t",
    }


def _write_text(text: str) -> bytes:
    content = text.encode()
    return b"X" + struct.pack("<I", len(content)) + content


def write_pickle(path: Path, content: bytes, name: str = "archive/data.pkl") -> None:
    """A PyTorch file of one pickle, of protocol 2 and without tensors."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"\x80\x02" + content + b".")
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/byteorder", b"little")


def write_payload(path: Path, payload: Any, place: str, zipped: bool) -> None:
    """A checkpoint with an object beside the state dict, among its weights or as a key."""
    weights = {"x": torch.zeros(1)}
    content = {
        "beside": {"state_dict": weights, "extra": payload},
        "weight": {"state_dict": {"x": payload}},
        "key": {"state_dict": weights, payload: 1},
    }[place]
    torch.save(content, path, _use_new_zipfile_serialization=zipped)


def write_malicious_file(path: Path, created: Path) -> None:
    """Write a checkpoint that creates the file `created` if code in it runs."""
    write_payload(path, Call(Path.touch, created), "beside", zipped=True)


def compress_members(path: Path) -> None:
    """Write a zip again with its members compressed, a thousandfold where they are zeros."""
    content = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
