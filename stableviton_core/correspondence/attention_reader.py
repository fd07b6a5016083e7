"""Reads the attention of zero cross-attention as passes of the network compute it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from einops import repeat
from torch import Tensor

from ..model.attention_recorder import hook_attention, token_grid
from ..model.zero_cross_attention import ZeroCrossAttention
from .attention_summary import AttentionSummary, summarize_attention

TIMESTEP = 100  # of a pass over a result: low noise, so that the network sees the garment on it


@contextmanager
def read_attention(
    zero_cross_attention: ZeroCrossAttention, latent_size: tuple[int, int]
) -> Iterator[list[AttentionSummary]]:
    """A list to which every pass of the network adds the summary of each block's attention to the
    garment, while the context lasts: of one pass, or of the steps of a sampling.

    latent_size: rows and columns. The layers' own outputs are not affected.
    """
    summaries: list[AttentionSummary] = []

    def record(block: int, q: Tensor, k: Tensor) -> None:
        grid = token_grid(zero_cross_attention.config, block, *latent_size)
        summaries.append(summarize_attention(q, k, grid))

    blocks = range(len(zero_cross_attention.warp_flow_blks))
    handles = hook_attention(zero_cross_attention, blocks, record)
    try:
        yield summaries
    finally:
        for handle in handles:
            handle.remove()


def draw_common_noise(latents: Tensor) -> Tensor:
    """Standard normal noise of the shape of latents B x C x h x w, float32 on the CPU. It is the
    same for every item, so that a batch gives what its items give alone."""
    noise = torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(0))
    return repeat(noise, "c h w -> b c h w", b=len(latents))
