"""The building blocks of Stable Diffusion 1.5's UNet, under the names its checkpoints use."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 32

Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Multi-head attention of B x N x (heads * width) tensors."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # B N C -> B H N D
    out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(2)  # B H N D -> B N C


class Backend(NamedTuple):
    """What layers are made of: classes (`Linear`, `Conv2d`, `GroupNorm`, `LayerNorm`) and an
    attention function. A host brings its own."""

    operations: Any = nn
    attention: Attend = attend


TORCH = Backend()


def timestep_embedding(timesteps: Tensor, width: int, max_period: float = 10000) -> Tensor:
    """Sinusoids of the timesteps: B -> B x width, float32, cosines first."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    frequencies = torch.exp(-math.log(max_period) * steps / half)
    angles = timesteps[:, None].float() * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ResBlock(nn.Module):
    """Residual block with the time embedding added between its two convolutions."""

    def __init__(self, width_in: int, width_out: int, time_width: int, backend: Backend = TORCH):
        super().__init__()
        ops = backend.operations
        self.in_layers = nn.Sequential(
            ops.GroupNorm(GROUPS, width_in),
            nn.SiLU(),
            ops.Conv2d(width_in, width_out, 3, padding=1),
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), ops.Linear(time_width, width_out))
        self.out_layers = nn.Sequential(
            ops.GroupNorm(GROUPS, width_out),
            nn.SiLU(),
            nn.Identity(),  # dropout's place in the checkpoint's numbering
            ops.Conv2d(width_out, width_out, 3, padding=1),
        )
        same = width_in == width_out
        self.skip_connection = nn.Identity() if same else ops.Conv2d(width_in, width_out, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(time)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class CrossAttention(nn.Module):
    """Attention of queries B x N x width to a context B x M x context_dim."""

    def __init__(self, width: int, context_dim: int, heads: int, backend: Backend = TORCH):
        super().__init__()
        ops = backend.operations
        self.heads = heads
        self.attention = backend.attention
        self.to_q = ops.Linear(width, width, bias=False)
        self.to_k = ops.Linear(context_dim, width, bias=False)
        self.to_v = ops.Linear(context_dim, width, bias=False)
        self.to_out = nn.Sequential(ops.Linear(width, width))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        return self.to_out(self.attention(q, k, v, self.heads))


class GEGLU(nn.Module):
    def __init__(self, width: int, inner: int, backend: Backend = TORCH):
        super().__init__()
        self.proj = backend.operations.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int, backend: Backend = TORCH):
        super().__init__()
        self.net = nn.Sequential(
            GEGLU(width, 4 * width, backend),
            nn.Identity(),  # dropout's place in the checkpoint's numbering
            backend.operations.Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, attention to a context, feed-forward; each on a LayerNorm, each added."""

    def __init__(self, width: int, context_dim: int, heads: int, backend: Backend = TORCH):
        super().__init__()
        ops = backend.operations
        self.attn1 = CrossAttention(width, width, heads, backend)
        self.attn2 = CrossAttention(width, context_dim, heads, backend)
        self.ff = FeedForward(width, backend)
        self.norm1 = ops.LayerNorm(width)
        self.norm2 = ops.LayerNorm(width)
        self.norm3 = ops.LayerNorm(width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = self.attn1(normed, normed) + x
        x = self.attn2(self.norm2(x), context) + x
        return self.ff(self.norm3(x)) + x


class SpatialTransformer(nn.Module):
    """A transformer block over the pixels of a feature map, added to the map."""

    def __init__(self, width: int, context_dim: int, heads: int, backend: Backend = TORCH):
        super().__init__()
        ops = backend.operations
        self.norm = ops.GroupNorm(GROUPS, width, eps=1e-6)
        self.proj_in = ops.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList(
            [TransformerBlock(width, context_dim, heads, backend)]
        )
        self.proj_out = ops.Conv2d(width, width, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        height, width = x.shape[2:]
        tokens = to_tokens(self.proj_in(self.norm(x)))
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        h = tokens.transpose(1, 2).unflatten(2, (height, width))  # B HW C -> B C H W
        return self.proj_out(h) + x


def to_tokens(feature_map: Tensor) -> Tensor:
    """B x C x H x W -> B x HW x C."""
    return feature_map.flatten(2).transpose(1, 2)  # B C H W -> B HW C


class Downsample(nn.Module):
    def __init__(self, width: int, backend: Backend = TORCH):
        super().__init__()
        self.op = backend.operations.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Nearest-neighbour enlargement to a given size (rows, columns), then a convolution."""

    def __init__(self, width: int, backend: Backend = TORCH):
        super().__init__()
        self.conv = backend.operations.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, ...]) -> Tensor:
        return self.conv(F.interpolate(x, size=size, mode="nearest"))
