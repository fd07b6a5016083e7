"""The host's UNet without its blocks below full resolution, from a feature map that is kept.

The feature map is the one that enters the first output block at full resolution. Numbers of blocks
and skip connections stay what they are, for the patches of all packs: a block that is not run hands
its input on.
"""

import copy
from collections.abc import Callable

from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import WrapperExecutor
from torch import Tensor, nn

from ...stableviton_core.model.config import NetworkConfig

Blocks = dict[str, nn.Module]


class Keep(nn.Module):
    """Hands a feature map B x C x H x W on, and to a function."""

    def __init__(self, keep: Callable[[Tensor], None]):
        super().__init__()
        self.keep = keep

    def forward(self, h: Tensor) -> Tensor:
        self.keep(h)
        return h


class Replace(nn.Module):
    """Returns kept features, whatever comes."""

    def __init__(self, features: Tensor):
        super().__init__()
        self.features = features

    def forward(self, h: Tensor) -> Tensor:
        return self.features


def keep_deep_features(
    unet: UNetModel, network: NetworkConfig, keep: Callable[[Tensor], None]
) -> Blocks:
    """All blocks, with a call of `keep` before the first output block at full resolution."""
    first = network.first_full_resolution_block
    output = list(unet.output_blocks)
    output[first - 1] = nn.ModuleList([*output[first - 1], Keep(keep)])
    return {"output_blocks": nn.ModuleList(output)}


def select_full_resolution(unet: UNetModel, network: NetworkConfig, features: Tensor) -> Blocks:
    """The blocks at full resolution, the others replaced."""
    first, count = network.first_full_resolution_block, _count_inputs(network)
    skipped = [nn.ModuleList() for _ in unet.input_blocks[count:]]
    return {
        "input_blocks": nn.ModuleList([*unet.input_blocks[:count], *skipped]),
        "middle_block": nn.ModuleList(),
        "output_blocks": nn.ModuleList(
            [nn.ModuleList([Replace(features)])] * first + list(unet.output_blocks[first:])
        ),
    }


def limit_control(control: dict | None, network: NetworkConfig) -> dict | None:
    """A ControlNet's residuals without those of blocks that are not run. The host takes them from
    the end of each list."""
    if control is None:
        return None
    first, count = network.first_full_resolution_block, _count_inputs(network)
    inputs, output = control.get("input", []), control.get("output", [])
    return control | {
        "input": [None] * len(inputs[:-count]) + inputs[-count:],
        "middle": [],
        "output": output[:-first] + [None] * len(output[-first:]),
    }


def _count_inputs(network: NetworkConfig) -> int:
    """The input blocks at full resolution."""
    return network.skip_index(network.first_full_resolution_block) + 1


def run_with_blocks(executor: WrapperExecutor, blocks: Blocks, *args, **kwargs) -> Tensor:
    """The wrapped UNet with other blocks; it itself, which others may be running, is unchanged."""
    unet = copy.copy(executor.class_obj)
    unet._modules = unet._modules | blocks
    inner = WrapperExecutor.new_class_executor(unet._forward, unet, executor.wrappers, executor.idx)
    return inner(*args, **kwargs)
