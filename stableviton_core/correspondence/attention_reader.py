"""Reads the attention of zero cross-attention as passes of the network compute it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ..model.layers import CrossAttention, split_heads
from ..model.zero_cross_attention import ZeroCrossAttention
from .attention_summary import AttentionSummary, summarize_attention


@contextmanager
def read_attention(
    zero_cross_attention: ZeroCrossAttention, latent_size: tuple[int, int]
) -> Iterator[list[AttentionSummary]]:
    """A list to which every pass of the network adds the summary of each block's attention to the
    garment, while the context lasts: of one pass, or of the steps of a sampling.

    latent_size: rows and columns. The layers' own outputs are not affected.
    """
    summaries: list[AttentionSummary] = []
    grids = _list_grids(*latent_size)

    def record(layer: CrossAttention, inputs: tuple[Tensor, Tensor], _output: Tensor) -> None:
        x, context = inputs
        q, k = (split_heads(t, layer.num_heads) for t in (layer.to_q(x), layer.to_k(context)))
        summaries.append(summarize_attention(q, k, grids[q.shape[2]]))

    transformers: Any = zero_cross_attention.warp_flow_blks
    handles = [
        transformer.transformer_blocks[0].attn2.register_forward_hook(record)
        for transformer in transformers
    ]
    try:
        yield summaries
    finally:
        for handle in handles:
            handle.remove()


def _list_grids(rows: int, columns: int) -> dict[int, tuple[int, int]]:
    """Rows and columns of the tokens of every level of a UNet, by their number."""
    grids = {}
    while rows * columns > 1:
        grids[rows * columns] = rows, columns
        rows, columns = (rows + 1) // 2, (columns + 1) // 2  # a downsampling rounds up
    return grids
