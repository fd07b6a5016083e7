"""The 13-channel UNet and its spatial encoder (paper, section 3.2).

Key names below are the checkpoint's own, so each part loads with `load_state_dict(strict=True)`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .config import NetworkConfig
from .layers import (
    GROUPS,
    TORCH,
    Backend,
    Downsample,
    ResBlock,
    SpatialTransformer,
    Upsample,
    timestep_embedding,
)

BeforeSkip = Callable[[int, Tensor], Tensor]


def _time_embed(config: NetworkConfig, backend: Backend) -> nn.Sequential:
    linear = backend.operations.Linear
    return nn.Sequential(
        linear(config.model_channels, config.time_width),
        nn.SiLU(),
        linear(config.time_width, config.time_width),
    )


def _transformer(config: NetworkConfig, width: int, backend: Backend) -> SpatialTransformer:
    return SpatialTransformer(width, config.context_dim, config.num_heads, backend)


def _input_blocks(config: NetworkConfig, backend: Backend) -> nn.ModuleList:
    width = config.model_channels
    conv = backend.operations.Conv2d(config.in_channels, width, 3, padding=1)
    blocks = [nn.ModuleList([conv])]
    for level in range(config.levels):
        for _ in range(config.num_res_blocks):
            block: list[nn.Module] = [
                ResBlock(width, config.width(level), config.time_width, backend)
            ]
            width = config.width(level)
            if config.attends(level):
                block.append(_transformer(config, width, backend))
            blocks.append(nn.ModuleList(block))
        if level < config.levels - 1:
            blocks.append(nn.ModuleList([Downsample(width, backend)]))
    return nn.ModuleList(blocks)


def _middle_block(config: NetworkConfig, backend: Backend) -> nn.ModuleList:
    width = config.width(config.levels - 1)
    return nn.ModuleList(
        [
            ResBlock(width, width, config.time_width, backend),
            _transformer(config, width, backend),
            ResBlock(width, width, config.time_width, backend),
        ]
    )


def _output_blocks(config: NetworkConfig, backend: Backend) -> nn.ModuleList:
    width = config.width(config.levels - 1)
    blocks: list[nn.Module] = []
    for level in reversed(range(config.levels)):
        for position in range(config.num_res_blocks + 1):
            skip = config.input_widths[config.skip_index(len(blocks))]
            block: list[nn.Module] = [
                ResBlock(width + skip, config.width(level), config.time_width, backend)
            ]
            width = config.width(level)
            if config.attends(level):
                block.append(_transformer(config, width, backend))
            if level and position == config.num_res_blocks:
                block.append(Upsample(width, backend))
            blocks.append(nn.ModuleList(block))
    return nn.ModuleList(blocks)


def _run(
    block: nn.Module, h: Tensor, time: Tensor, context: Tensor, size: tuple[int, ...] | None = None
) -> Tensor:
    """One block of the UNet. size: what an upsampling at its end brings the map to."""
    for layer in block.children():
        match layer:
            case ResBlock():
                h = layer(h, time)
            case SpatialTransformer():
                h = layer(h, context)
            case Upsample():
                h = layer(h, size)
            case _:
                h = layer(h)
    return h


class UNet(nn.Module):
    """The UNet. forward: x B x in_channels x H x W, timesteps B (0..999), context
    B x tokens x context_dim -> predicted noise B x latent_channels x H x W.

    `before_skip(output_block, h)` sees, and replaces, the map that enters an output block before
    the skip connection is concatenated.
    """

    def __init__(self, config: NetworkConfig, backend: Backend = TORCH):
        super().__init__()
        self.config = config
        ops = backend.operations
        self.time_embed = _time_embed(config, backend)
        self.input_blocks = _input_blocks(config, backend)
        self.middle_block = _middle_block(config, backend)
        self.output_blocks = _output_blocks(config, backend)
        self.out = nn.Sequential(
            ops.GroupNorm(GROUPS, config.model_channels),
            nn.SiLU(),
            ops.Conv2d(config.model_channels, config.latent_channels, 3, padding=1),
        )

    def forward(
        self, x: Tensor, timesteps: Tensor, context: Tensor, before_skip: BeforeSkip | None = None
    ) -> Tensor:
        embedding = timestep_embedding(timesteps, self.config.model_channels)
        time = self.time_embed(embedding.to(x.dtype))
        h, skips = x, []
        for block in self.input_blocks:
            h = _run(block, h, time, context)
            skips.append(h)
        h = _run(self.middle_block, h, time, context)
        for index, block in enumerate(self.output_blocks):
            if before_skip is not None:
                h = before_skip(index, h)
            h = torch.cat([h, skips.pop()], dim=1)
            size = tuple(skips[-1].shape[2:]) if skips else None
            h = _run(block, h, time, context, size)
        return self.out(h)


class SpatialEncoder(nn.Module):
    """The unet's encoder again, with the garment latent added to its first feature map.

    forward: x, timesteps, context as the unet's, garment B x latent_channels x H x W ->
    the maps of all input blocks and of the middle block, in this order.
    """

    def __init__(self, config: NetworkConfig, backend: Backend = TORCH):
        super().__init__()
        self.config = config
        self.time_embed = _time_embed(config, backend)
        self.input_blocks = _input_blocks(config, backend)
        conv = backend.operations.Conv2d(
            config.latent_channels, config.model_channels, 3, padding=1
        )
        self.cond_first_block = nn.Sequential(conv)
        self.middle_block = _middle_block(config, backend)

    def forward(
        self, x: Tensor, timesteps: Tensor, context: Tensor, garment: Tensor
    ) -> list[Tensor]:
        embedding = timestep_embedding(timesteps, self.config.model_channels)
        time = self.time_embed(embedding.to(x.dtype))
        first, *rest = self.input_blocks
        h = _run(first, x, time, context) + self.cond_first_block(garment)
        maps = [h]
        for block in [*rest, self.middle_block]:
            h = _run(block, h, time, context)
            maps.append(h)
        return maps
