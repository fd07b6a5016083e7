"""The image condition: a CLIP vision tower's pooled output becomes the UNet's one context token
(Paint-by-Example's image condition, `cond_stage_model` and `proj_out` of a checkpoint)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ModelConfig
from .layers import TORCH, Backend

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def clip_pixels(garment: Tensor, size: int = 224) -> Tensor:
    """Garment B x 3 x H x W in -1..1 -> CLIP's input B x 3 x size x size.

    Bilinear without antialiasing and without a crop, so the aspect is not kept, as the released
    code does it; a CLIP processor (antialiased, centre crop) gives other numbers.
    """
    resized = F.interpolate(garment, size=(size, size), mode="bilinear", align_corners=False)
    mean, std = (garment.new_tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return ((resized + 1) / 2 - mean) / std


class MapperAttention(nn.Module):
    """Self-attention whose fused projection holds q, k, v of each head side by side."""

    def __init__(self, width: int, heads: int, backend: Backend = TORCH):
        super().__init__()
        linear = backend.operations.Linear
        self.heads = heads
        self.attention = backend.attention
        self.c_qkv = linear(width, 3 * width)
        self.c_proj = linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        fused = self.c_qkv(x).unflatten(-1, (self.heads, -1))  # B N 3C -> B N H 3D
        q, k, v = (part.flatten(2) for part in fused.chunk(3, dim=-1))  # B N H D -> B N C
        return self.c_proj(self.attention(q, k, v, self.heads))


class MapperMLP(nn.Module):
    def __init__(self, width: int, backend: Backend = TORCH):
        super().__init__()
        linear = backend.operations.Linear
        self.c_fc = linear(width, 4 * width)
        self.c_proj = linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))


class MapperBlock(nn.Module):
    def __init__(self, width: int, heads: int, backend: Backend = TORCH):
        super().__init__()
        norm = backend.operations.LayerNorm
        self.attn = MapperAttention(width, heads, backend)
        self.ln_1 = norm(width)
        self.mlp = MapperMLP(width, backend)
        self.ln_2 = norm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Mapper(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, backend: Backend = TORCH):
        super().__init__()
        self.resblocks = nn.ModuleList(MapperBlock(width, heads, backend) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x)
        return x


class ImageProjector(nn.Module):
    """forward: CLIP's pooled output B x clip width -> context B x 1 x context_dim.

    `learnable_vector`, 1 x 1 x context_dim, is the unconditional context.
    """

    def __init__(self, config: ModelConfig, backend: Backend = TORCH):
        super().__init__()
        width, context = config.clip.hidden_size, config.network.context_dim
        self.mapper = Mapper(width, config.mapper_layers, config.mapper_heads, backend)
        self.final_ln = backend.operations.LayerNorm(width)
        self.proj_out = backend.operations.Linear(width, context)
        self.learnable_vector = nn.Parameter(torch.randn(1, 1, context))

    def embed(self, pooled: Tensor) -> Tensor:
        """B x width -> B x 1 x width, before the projection to the context's width."""
        return self.final_ln(self.mapper(pooled[:, None]))  # B C -> B 1 C

    def forward(self, pooled: Tensor) -> Tensor:
        return self.proj_out(self.embed(pooled))
