"""A GPU without a card: PyTorch's fake tensors, which have a device and no data.

An operation on tensors of two devices raises, as does one that no fake tensor can do. Reading a
value (`.item()`, `if tensor`) makes the CPU wait for a GPU: it is recorded, answered from a list.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stableviton_core.schedule import alphas_cumprod

GPU = torch.device("cuda:0")


@dataclass
class Recorded:
    """What a GPU has to wait for: values read, and tensors copied from one device to another; and
    operations whose result is a float64 tensor on it, which Apple's do not have."""

    reads: list[str] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)
    float64: list[str] = field(default_factory=list)


class Recorder(TorchDispatchMode):
    def __init__(self, values: Iterable[float]):
        super().__init__()
        self.recorded = Recorded()
        self.values = iter(values)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default and args[0].device == GPU:
            self.recorded.reads.append(str(func))
            return next(self.values)
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            inputs = [item for item in tree_leaves((args, kwargs)) if isinstance(item, Tensor)]
            if func.namespace == "aten" and {item.device for item in inputs} - {result.device}:
                self._record_copy(func, inputs, result)
            if result.device == GPU and result.dtype == torch.float64:
                self.recorded.float64.append(str(func))
        return result

    def _record_copy(self, func, inputs: list[Tensor], result: Tensor) -> None:
        """A number that lies on the CPU is an argument of the GPU's kernel, no copy."""
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            sources = ", ".join(f"{tuple(item.shape)} on {item.device}" for item in inputs)
            self.recorded.copies.append(f"{func} of {sources} to {result.device}")


@contextmanager
def fake_gpu(values: Iterable[float] = ()) -> Iterator[Recorded]:
    """New tensors are fake in the block; others count as what they are on the CPU. values: what is
    read from the GPU, in turn."""
    alphas_cumprod()  # is kept, and must not be a fake one
    recorder = Recorder(values)
    with FakeTensorMode(allow_non_fake_inputs=True), recorder:
        yield recorder.recorded


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=GPU)


@contextmanager
def built_on_gpu(dtype: torch.dtype) -> Iterator[None]:
    """Modules that are built in the block lie on the GPU, with weights of a type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(GPU):
            yield
    finally:
        torch.set_default_dtype(before)
