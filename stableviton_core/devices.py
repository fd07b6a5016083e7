"""The device that a command's --device names, and whether this machine has it."""

import os

import torch


def choose_device(name: str) -> torch.device:
    """The device of the name auto, cpu, cuda or mps. Of several GPUs each process takes its own."""
    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        else:
            name = "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device(name)


def list_missing_devices(device: torch.device) -> list[str]:
    """What keeps this process from computing on a device, one a line."""
    problems = []
    if device.type == "cuda" and not torch.cuda.is_available():
        problems.append("--device cuda: PyTorch finds no CUDA GPU on this machine")
    elif device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        problems.append(
            f"this is process {(device.index or 0) + 1} on this machine, which has "
            f"{torch.cuda.device_count()} GPUs: launch one process per GPU"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        problems.append("--device mps: PyTorch finds no Apple GPU on this machine")
    return problems
