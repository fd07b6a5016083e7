"""StableVITON's network: trunk, spatial encoder and zero cross-attention (paper, section 3.2).

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
    to_tokens,
)

BeforeSkip = Callable[[int, Tensor], Tensor]


def _time_embed(config: NetworkConfig, backend: Backend) -> nn.Sequential:
    linear = backend.operations.Linear
    return nn.Sequential(
        linear(config.base_width, config.time_width),
        nn.SiLU(),
        linear(config.time_width, config.time_width),
    )


def _transformer(config: NetworkConfig, width: int, backend: Backend) -> SpatialTransformer:
    return SpatialTransformer(width, config.context_width, config.heads, backend)


def _input_blocks(config: NetworkConfig, backend: Backend) -> nn.ModuleList:
    width = config.base_width
    conv = backend.operations.Conv2d(config.in_channels, width, 3, padding=1)
    blocks = [nn.ModuleList([conv])]
    for level in range(config.levels):
        for _ in range(config.blocks):
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
        for position in range(config.blocks + 1):
            skip = config.input_widths[config.skip_index(len(blocks))]
            block: list[nn.Module] = [
                ResBlock(width + skip, config.width(level), config.time_width, backend)
            ]
            width = config.width(level)
            if config.attends(level):
                block.append(_transformer(config, width, backend))
            if level and position == config.blocks:
                block.append(Upsample(width, backend))
            blocks.append(nn.ModuleList(block))
    return nn.ModuleList(blocks)


def _run(
    block: nn.Module, h: Tensor, time: Tensor, context: Tensor,
    size: tuple[int, ...] | None = None,
) -> Tensor:  # fmt: skip
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


class Trunk(nn.Module):
    """The UNet. forward: x B x in_channels x H x W, timesteps B (0..999), context
    B x tokens x context_width -> predicted noise B x latent_channels x H x W.

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
            ops.GroupNorm(GROUPS, config.base_width),
            nn.SiLU(),
            ops.Conv2d(config.base_width, config.latent_channels, 3, padding=1),
        )

    def forward(
        self, x: Tensor, timesteps: Tensor, context: Tensor, before_skip: BeforeSkip | None = None
    ) -> Tensor:
        embedding = timestep_embedding(timesteps, self.config.base_width)
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
    """The trunk's encoder again, with the garment latent added to its first feature map.

    forward: x, timesteps, context as the trunk's, garment B x latent_channels x H x W ->
    the maps of all input blocks and of the middle block, in this order.
    """

    def __init__(self, config: NetworkConfig, backend: Backend = TORCH):
        super().__init__()
        self.config = config
        self.time_embed = _time_embed(config, backend)
        self.input_blocks = _input_blocks(config, backend)
        conv = backend.operations.Conv2d(config.latent_channels, config.base_width, 3, padding=1)
        self.cond_first_block = nn.Sequential(conv)
        self.middle_block = _middle_block(config, backend)

    def forward(
        self, x: Tensor, timesteps: Tensor, context: Tensor, garment: Tensor
    ) -> list[Tensor]:
        embedding = timestep_embedding(timesteps, self.config.base_width)
        time = self.time_embed(embedding.to(x.dtype))
        first, *rest = self.input_blocks
        h = _run(first, x, time, context) + self.cond_first_block(garment)
        maps = [h]
        for block in [*rest, self.middle_block]:
            h = _run(block, h, time, context)
            maps.append(h)
        return maps


class ZeroCrossAttention(nn.Module):
    """The decoder's attention to the garment, at every output block but the lowest resolution's.

    forward: output_block, h B x C x H x W that enters it, garment maps of the spatial encoder ->
    h + strength * zero_conv(transformer(h, garment map)); h itself where the block has none.
    """

    def __init__(self, config: NetworkConfig, backend: Backend = TORCH):
        super().__init__()
        self.config = config
        conv = backend.operations.Conv2d
        widths = config.warp_widths
        self.warp_flow_blks = nn.ModuleList(
            SpatialTransformer(query, key, config.heads, backend) for query, key in widths
        )
        self.warp_zero_convs = nn.ModuleList(conv(query, query, 1) for query, _ in widths)

    def forward(
        self, output_block: int, h: Tensor, maps: list[Tensor], strength: float = 1.0
    ) -> Tensor:
        index = self.config.warp_index(output_block)
        if index is None:
            return h
        garment = to_tokens(maps[self.config.skip_index(output_block)])
        warped = self.warp_zero_convs[index](self.warp_flow_blks[index](h, garment))
        return h + strength * warped


class TryOnNetwork(nn.Module):
    """Trunk, spatial encoder and zero cross-attention together: what is trained.

    forward: x B x 13 x H x W = noisy latent (4), agnostic latent (4), keep-mask (1), DensePose
    latent (4); timesteps B; context B x 1 x context_width; garment latent B x 4 x H x W ->
    predicted noise B x 4 x H x W.
    """

    def __init__(self, config: NetworkConfig, backend: Backend = TORCH):
        super().__init__()
        self.config = config
        self.trunk = Trunk(config, backend)
        self.encoder = SpatialEncoder(config, backend)
        self.warp = ZeroCrossAttention(config, backend)

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, garment: Tensor) -> Tensor:
        maps = self.encoder(x, timesteps, context, garment)
        return self.trunk(x, timesteps, context, lambda block, h: self.warp(block, h, maps))
