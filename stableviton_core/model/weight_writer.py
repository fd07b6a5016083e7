"""Writes a .safetensors file tensor by tensor: memory for one of them is enough.

The file is a little-endian 64-bit length, a JSON header of that length, and the tensors' bytes
(format of the safetensors library, whose own functions take all tensors at once).
"""

import json
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

DTYPE_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
ALIGNMENT = 8  # of the first tensor, in bytes


def write_tensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    make_tensor: Callable[[str], Tensor],
    metadata: Mapping[str, str],
) -> None:
    """Write the tensors that `make_tensor` returns for the keys of `shapes`, each of its shape and
    of `dtype`, one of DTYPE_NAMES."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for key, shape in shapes.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[key] = {"dtype": DTYPE_NAMES[dtype], "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for key, shape in shapes.items():
            tensor = make_tensor(key)
            assert (tensor.dtype, tuple(tensor.shape)) == (dtype, tuple(shape)), key
            file.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
