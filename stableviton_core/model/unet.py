"""The 13-channel UNet and its spatial encoder (paper, section 3.2).

Module names are the checkpoint's keys, so each component loads with `load_state_dict(strict=True)`.
"""

from collections.abc import Callable, Iterator

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


def _build_time_embed(config: NetworkConfig, backend: Backend) -> nn.Sequential:
    linear = backend.operations.Linear
    return nn.Sequential(
        linear(config.model_channels, config.time_embed_dim),
        nn.SiLU(),
        linear(config.time_embed_dim, config.time_embed_dim),
    )


def _build_block(
    config: NetworkConfig, in_channels: int, level: int, backend: Backend
) -> list[nn.Module]:
    """A residual block and, where the level has attention, a spatial transformer."""
    channels = config.level_channels(level)
    block: list[nn.Module] = [ResBlock(in_channels, channels, config.time_embed_dim, backend)]
    if config.has_attention(level):
        block.append(SpatialTransformer(channels, config.context_dim, config.num_heads, backend))
    return block


def _build_input_blocks(config: NetworkConfig, backend: Backend) -> nn.ModuleList:
    channels = config.model_channels
    conv = backend.operations.Conv2d(config.in_channels, channels, 3, padding=1)
    blocks = [nn.ModuleList([conv])]
    for level in range(config.levels):
        for _ in range(config.num_res_blocks):
            blocks.append(nn.ModuleList(_build_block(config, channels, level, backend)))
            channels = config.level_channels(level)
        if level < config.levels - 1:
            blocks.append(nn.ModuleList([Downsample(channels, backend)]))
    return nn.ModuleList(blocks)


def _build_middle_block(config: NetworkConfig, backend: Backend) -> nn.ModuleList:
    channels = config.level_channels(config.levels - 1)
    return nn.ModuleList(
        [
            ResBlock(channels, channels, config.time_embed_dim, backend),
            SpatialTransformer(channels, config.context_dim, config.num_heads, backend),
            ResBlock(channels, channels, config.time_embed_dim, backend),
        ]
    )


def _build_output_blocks(config: NetworkConfig, backend: Backend) -> nn.ModuleList:
    channels = config.level_channels(config.levels - 1)
    blocks: list[nn.Module] = []
    for level in reversed(range(config.levels)):
        for position in range(config.num_res_blocks + 1):
            skip_channels = config.input_channels[config.skip_index(len(blocks))]
            block = _build_block(config, channels + skip_channels, level, backend)
            channels = config.level_channels(level)
            if level and position == config.num_res_blocks:
                block.append(Upsample(channels, backend))
            blocks.append(nn.ModuleList(block))
    return nn.ModuleList(blocks)


def _run_block(
    block: nn.Module, h: Tensor, time: Tensor, context: Tensor, size: tuple[int, ...] | None = None
) -> Tensor:
    """The layers of a block in turn. size: rows and columns after an upsampling at its end."""
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
    """forward: x B x in_channels x H x W, timesteps B (0..999), context B x tokens x context_dim ->
    predicted noise B x latent_channels x H x W.

    `before_skip(output_block, h)` returns what takes the place of h, the feature map that enters
    an output block, before the skip connection is concatenated.

    Time embedding, input blocks and middle block run without gradient unless a parameter of theirs
    is trained, as in the released training: what they attend to, the context, then has its gradient
    from the output blocks only, and their activations are not kept.
    """

    def __init__(self, config: NetworkConfig, backend: Backend = TORCH):
        super().__init__()
        self.config = config
        ops = backend.operations
        self.time_embed = _build_time_embed(config, backend)
        self.input_blocks = _build_input_blocks(config, backend)
        self.middle_block = _build_middle_block(config, backend)
        self.output_blocks = _build_output_blocks(config, backend)
        self.out = nn.Sequential(
            ops.GroupNorm(GROUPS, config.model_channels),
            nn.SiLU(),
            ops.Conv2d(config.model_channels, config.latent_channels, 3, padding=1),
        )

    def forward(
        self, x: Tensor, timesteps: Tensor, context: Tensor, before_skip: BeforeSkip | None = None
    ) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trains_encoder()):
            embedding = timestep_embedding(timesteps, self.config.model_channels)
            time = self.time_embed(embedding.to(x.dtype))
            h, skips = x, []
            for block in self.input_blocks:
                h = _run_block(block, h, time, context)
                skips.append(h)
            h = _run_block(self.middle_block, h, time, context)
        for index, block in enumerate(self.output_blocks):
            if before_skip is not None:
                h = before_skip(index, h)
            h = torch.cat([h, skips.pop()], dim=1)
            size = tuple(skips[-1].shape[2:]) if skips else None
            h = _run_block(block, h, time, context, size)
        return self.out(h)

    def trains_encoder(self) -> bool:
        """Whether a parameter of the time embedding, input blocks or middle block is trained."""
        modules = (self.time_embed, self.input_blocks, self.middle_block)
        return any(p.requires_grad for module in modules for p in module.parameters())


class SpatialEncoder(nn.Module):
    """A copy of the UNet's encoder; the garment latent is added to its first feature map.

    forward: x, timesteps, context as the UNet's, garment B x latent_channels x H x W -> the garment
    features, one of each input block that a zero cross-attention attends to.

    Checkpoints also hold the deeper input blocks and the middle block, half of the parameters at
    the released size. No output depends on them and they are never run.
    with_unused: have them all the same, so that a checkpoint can be saved again.
    """

    def __init__(self, config: NetworkConfig, backend: Backend = TORCH, with_unused: bool = True):
        super().__init__()
        self.config = config
        self.time_embed = _build_time_embed(config, backend)
        self.input_blocks = _build_input_blocks(config, backend)
        conv = backend.operations.Conv2d(
            config.latent_channels, config.model_channels, 3, padding=1
        )
        self.cond_first_block = nn.Sequential(conv)
        self.middle_block = _build_middle_block(config, backend)
        if not with_unused:
            self.input_blocks = self.input_blocks[: config.num_garment_features]
            self.middle_block = nn.ModuleList()

    def forward(
        self, x: Tensor, timesteps: Tensor, context: Tensor, garment: Tensor
    ) -> list[Tensor]:
        embedding = timestep_embedding(timesteps, self.config.model_channels)
        time = self.time_embed(embedding.to(x.dtype))
        first, *rest = self.input_blocks[: self.config.num_garment_features]
        features = [_run_block(first, x, time, context) + self.cond_first_block(garment)]
        for block in rest:
            features.append(_run_block(block, features[-1], time, context))
        return features

    def unused_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the blocks that are never run. A trainer freezes them."""
        unused = self.input_blocks[self.config.num_garment_features :]
        for block in (*unused, self.middle_block):
            yield from block.parameters()
