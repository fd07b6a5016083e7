"""Files that contain code, or claim more than they hold."""

import builtins
import io
import os
import pickle
import runpy
import shutil
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
