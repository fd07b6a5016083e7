"""Where try-ons are computed: device, data type, and this process's part of the pairs."""

import os
from dataclasses import dataclass

import torch

from ..devices import choose_device, list_missing_devices
from ..model.checkpoint import DTYPES
from .config import TryOnConfig, parse_shard


@dataclass(frozen=True)
class Part:
    """Every `count`-th pair, beginning with the one at `index`."""

    index: int
    count: int


def find_part(config: TryOnConfig) -> Part:
    """The part of this process: that of --shard, divided once more among the processes that
    `accelerate launch` or `torchrun` started, by their variables RANK and WORLD_SIZE."""
    index, count = parse_shard(config.shard)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    return Part(index * processes + int(os.environ.get("RANK", 0)), count * processes)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The type of a name of `model.checkpoint.DTYPES` or "auto"."""
    if name == "auto":
        name = "fp16" if device.type == "cuda" else "fp32"
    return DTYPES[name]


def list_device_problems(config: TryOnConfig) -> list[str]:
    """What of --device and --dtype this machine does not have, one a line."""
    device = choose_device(config.device)
    problems = list_missing_devices(device)
    if device.type == "cpu" and config.dtype == "fp16":
        problems.append("--dtype fp16 needs a GPU: take fp32 or bf16 on a CPU")
    return problems
