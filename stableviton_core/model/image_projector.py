"""The image projector: a CLIP vision tower's pooled output -> the UNet's one context token
(Paint-by-Example's conditioning; `cond_stage_model` and `proj_out` of a checkpoint)."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .config import ModelConfig
from .layers import TORCH, Backend

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def preprocess_for_clip(garment: Tensor, size: int = 224) -> Tensor:
    """Garment B x 3 x H x W in -1..1 -> the CLIP tower's pixels B x 3 x size x size.

    Bilinear without antialiasing and without a crop, so the aspect is not kept, as in the released
    code; a CLIP processor (antialiased, centre crop) gives other numbers.
    """
    resized = F.interpolate(garment, size=(size, size), mode="bilinear", align_corners=False)
    mean, std = (garment.new_tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return ((resized + 1) / 2 - mean) / std


class MapperAttention(nn.Module):
    """Self-attention over B x N x channels; the fused projection holds each head's q, k, v side by
    side."""

    def __init__(self, channels: int, num_heads: int, backend: Backend = TORCH):
        super().__init__()
        linear = backend.operations.Linear
        self.num_heads = num_heads
        self.attention = backend.attention
        self.c_qkv = linear(channels, 3 * channels)
        self.c_proj = linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(
            self.c_qkv(x), "b n (h qkv d) -> qkv b n (h d)", h=self.num_heads, qkv=3
        )
        return self.c_proj(self.attention(q, k, v, self.num_heads))


class MapperMLP(nn.Module):
    def __init__(self, channels: int, backend: Backend = TORCH):
        super().__init__()
        linear = backend.operations.Linear
        self.c_fc = linear(channels, 4 * channels)
        self.c_proj = linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))


class MapperBlock(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, channels: int, num_heads: int, backend: Backend = TORCH):
        super().__init__()
        norm = backend.operations.LayerNorm
        self.attn = MapperAttention(channels, num_heads, backend)
        self.ln_1 = norm(channels)
        self.mlp = MapperMLP(channels, backend)
        self.ln_2 = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Mapper(nn.Module):
    def __init__(self, channels: int, layers: int, num_heads: int, backend: Backend = TORCH):
        super().__init__()
        blocks = (MapperBlock(channels, num_heads, backend) for _ in range(layers))
        self.resblocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks(x)


class ImageProjector(nn.Module):
    """forward: CLIP's pooled output B x hidden_size -> context B x 1 x context_dim.

    `learnable_vector`, 1 x 1 x context_dim, is the unconditional context.
    """

    def __init__(self, config: ModelConfig, backend: Backend = TORCH):
        super().__init__()
        channels, context_dim = config.clip.hidden_size, config.network.context_dim
        self.mapper = Mapper(channels, config.mapper_layers, config.mapper_heads, backend)
        self.final_ln = backend.operations.LayerNorm(channels)
        self.proj_out = backend.operations.Linear(channels, context_dim)
        self.learnable_vector = nn.Parameter(torch.randn(1, 1, context_dim))

    def embed(self, pooled: Tensor) -> Tensor:
        """B x hidden_size -> B x 1 x hidden_size, before the projection to context_dim."""
        return self.final_ln(self.mapper(rearrange(pooled, "b c -> b 1 c")))

    def forward(self, pooled: Tensor) -> Tensor:
        return self.proj_out(self.embed(pooled))
