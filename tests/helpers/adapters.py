"""A T2I-Adapter file with seeded values, which ComfyUI loads as a ControlNet."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from .checkpoints import SMALL
from .golden import fill


def write_pose_adapter(path: Path) -> None:
    """Of the small test checkpoint's size."""
    channels = [SMALL.network.model_channels * factor for factor in (1, 2, 4, 4)]
    shapes = {"conv_in": (channels[0], 3 * 8 * 8, 3)}
    for level, width in enumerate(channels):
        for block in range(2):
            before = channels[level - 1] if level and not block else width
            if before != width:
                shapes[f"body.{2 * level + block}.in_conv"] = (width, before, 1)
            shapes[f"body.{2 * level + block}.block1"] = (width, width, 3)
            shapes[f"body.{2 * level + block}.block2"] = (width, width, 1)
    weights: dict[str, torch.Tensor] = {}
    for name, (rows, columns, side) in shapes.items():
        shape = (rows, columns, side, side)
        weights[f"{name}.weight"] = fill(f"adapter/{name}", shape, (columns * side**2) ** -0.5)
        weights[f"{name}.bias"] = torch.zeros(rows)
    save_file(weights, path)
