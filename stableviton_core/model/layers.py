"""The building blocks of Stable Diffusion 1.5's UNet, under the names its checkpoints use."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

GROUPS = 32  # of the group normalisations
MAX_PERIOD = 10_000  # of the timestep embedding

Attention = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    """Multi-head attention: q B x N x C, k and v B x M x C -> B x N x C, C = num_heads * head
    channels."""
    q, k, v = (split_heads(x, num_heads) for x in (q, k, v))
    return rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)")


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """B x N x C -> B x heads x N x head channels."""
    return rearrange(x, "b n (h d) -> b h n d", h=num_heads)


class Backend(NamedTuple):
    """What layers are made of: layer classes (`Linear`, `Conv2d`, `GroupNorm`, `LayerNorm`) and an
    attention function with the signature of `attend`. ComfyUI's nodes pass the host's own."""

    operations: Any = nn
    attention: Attention = attend


TORCH = Backend()


def timestep_embedding(timesteps: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding: timesteps B -> B x dim, float32, cosines first."""
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    frequencies = torch.exp(-math.log(MAX_PERIOD) * steps / half)
    angles = timesteps[:, None].float() * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ResBlock(nn.Module):
    """Residual block; the time embedding is added between its two convolutions.

    forward: x B x in_channels x H x W, time B x time_embed_dim -> B x out_channels x H x W.
    gradient_checkpointing: keep only the inputs, and run the block again in the backward pass.
    """

    gradient_checkpointing: bool = False

    def __init__(
        self, in_channels: int, out_channels: int, time_embed_dim: int, backend: Backend = TORCH
    ):
        super().__init__()
        ops = backend.operations
        self.in_layers = nn.Sequential(
            ops.GroupNorm(GROUPS, in_channels),
            nn.SiLU(),
            ops.Conv2d(in_channels, out_channels, 3, padding=1),
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), ops.Linear(time_embed_dim, out_channels))
        self.out_layers = nn.Sequential(
            ops.GroupNorm(GROUPS, out_channels),
            nn.SiLU(),
            nn.Identity(),  # dropout's position in the checkpoint's numbering
            ops.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        self.skip_connection = (
            nn.Identity()
            if in_channels == out_channels
            else ops.Conv2d(in_channels, out_channels, 1)
        )

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(self._forward, x, time, use_reentrant=False)
        return self._forward(x, time)

    def _forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(time)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class CrossAttention(nn.Module):
    """Attention of queries B x N x channels to a context B x M x context_dim.

    All of the softmax's weight is on a context's only token, whatever the query. Without gradients
    the value of that token is therefore returned as it is, B x 1 x channels.
    """

    def __init__(self, channels: int, context_dim: int, num_heads: int, backend: Backend = TORCH):
        super().__init__()
        linear = backend.operations.Linear
        self.num_heads = num_heads
        self.attention = backend.attention
        self.to_q = linear(channels, channels, bias=False)
        self.to_k = linear(context_dim, channels, bias=False)
        self.to_v = linear(context_dim, channels, bias=False)
        self.to_out = nn.Sequential(linear(channels, channels))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        if context.shape[1] == 1 and not torch.is_grad_enabled():
            return self.to_out(self.to_v(context))
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        return self.to_out(self.attention(q, k, v, self.num_heads))


class GEGLU(nn.Module):
    """Gated linear unit: value * GELU(gate)."""

    def __init__(self, in_channels: int, out_channels: int, backend: Backend = TORCH):
        super().__init__()
        self.proj = backend.operations.Linear(in_channels, 2 * out_channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, channels: int, backend: Backend = TORCH):
        super().__init__()
        self.net = nn.Sequential(
            GEGLU(channels, 4 * channels, backend),
            nn.Identity(),  # dropout's position in the checkpoint's numbering
            backend.operations.Linear(4 * channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, attention to a context, feed-forward; each pre-norm with a residual."""

    def __init__(self, channels: int, context_dim: int, num_heads: int, backend: Backend = TORCH):
        super().__init__()
        norm = backend.operations.LayerNorm
        self.attn1 = CrossAttention(channels, channels, num_heads, backend)
        self.attn2 = CrossAttention(channels, context_dim, num_heads, backend)
        self.ff = FeedForward(channels, backend)
        self.norm1, self.norm2, self.norm3 = norm(channels), norm(channels), norm(channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = self.attn1(normed, normed) + x
        x = self.attn2(self.norm2(x), context) + x
        return self.ff(self.norm3(x)) + x


class SpatialTransformer(nn.Module):
    """A transformer block over the pixels of a feature map, with a residual.

    forward: x B x channels x H x W, context B x M x context_dim -> B x channels x H x W.
    gradient_checkpointing: as ResBlock's.
    """

    gradient_checkpointing: bool = False

    def __init__(self, channels: int, context_dim: int, num_heads: int, backend: Backend = TORCH):
        super().__init__()
        ops = backend.operations
        self.norm = ops.GroupNorm(GROUPS, channels, eps=1e-6)
        self.proj_in = ops.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(
            [TransformerBlock(channels, context_dim, num_heads, backend)]
        )
        self.proj_out = ops.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(self._forward, x, context, use_reentrant=False)
        return self._forward(x, context)

    def _forward(self, x: Tensor, context: Tensor) -> Tensor:
        tokens = to_tokens(self.proj_in(self.norm(x)))
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return self.proj_out(rearrange(tokens, "b (h w) c -> b c h w", h=x.shape[2])) + x


def enable_gradient_checkpointing(module: nn.Module) -> None:
    """Set `gradient_checkpointing` on every ResBlock and SpatialTransformer of a module."""
    for block in module.modules():
        if isinstance(block, ResBlock | SpatialTransformer):
            block.gradient_checkpointing = True


def to_tokens(feature_map: Tensor) -> Tensor:
    """B x C x H x W -> B x HW x C, row by row."""
    return rearrange(feature_map, "b c h w -> b (h w) c")


class Downsample(nn.Module):
    """A convolution of stride 2: H x W -> ceil(H / 2) x ceil(W / 2)."""

    def __init__(self, channels: int, backend: Backend = TORCH):
        super().__init__()
        self.op = backend.operations.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Nearest-neighbour interpolation to a size (rows, columns), then a convolution."""

    def __init__(self, channels: int, backend: Backend = TORCH):
        super().__init__()
        self.conv = backend.operations.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, ...]) -> Tensor:
        return self.conv(F.interpolate(x, size=size, mode="nearest"))
