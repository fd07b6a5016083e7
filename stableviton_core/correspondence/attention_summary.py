"""What is kept of a map of attention to the garment: a few numbers for every token.

A map of N person tokens to N garment tokens is computed in chunks of person tokens and never held
whole: at 1024 x 768 one block's map of one head takes 576 MiB.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

CHUNK_BYTES = 32 * 2**20  # of the attention of one chunk, all heads
WINDOW = 1  # tokens around the largest attention that count as its peak, to each side


@dataclass(frozen=True)
class AttentionSummary:
    """Of the attention of one block in one pass, averaged over the heads. Positions are (x, y) in
    0..1 of the image, the centre of the first token at half a token; N tokens, row by row.

    grid: rows and columns of tokens, of person and garment alike. garment: B x N x 2, where a
    person token's attention has its peak, between tokens. peak: B x N, the attention there: 1 where
    it attends to nothing else, near 0 where to all alike. person: B x N x 2, of each garment token
    the person token that attends to it most.
    """

    grid: tuple[int, int]
    garment: Tensor
    peak: Tensor
    person: Tensor


def summarize_attention(q: Tensor, k: Tensor, grid: tuple[int, int]) -> AttentionSummary:
    """Queries of person tokens and keys of garment tokens, B x heads x N x channels."""
    batch, heads, count, channels = q.shape
    size = max(1, CHUNK_BYTES // (4 * batch * heads * count))
    garment, peaks = [], []
    best = q.new_full((batch, count), -1, dtype=torch.float32)
    attending = torch.zeros(batch, count, dtype=torch.long, device=q.device)
    keys = k.float().mT * channels**-0.5
    for first in range(0, count, size):
        attention = (q[:, :, first : first + size].float() @ keys).softmax(dim=-1).mean(dim=1)
        position, peak = _find_peaks(attention, grid)
        garment.append(position)
        peaks.append(peak)
        largest, index = attention.max(dim=1)
        attending = torch.where(largest > best, index + first, attending)
        best = torch.maximum(largest, best)
    return AttentionSummary(
        grid,
        torch.cat(garment, dim=1),
        torch.cat(peaks, dim=1),
        locate_tokens(grid, q.device)[attending],
    )


def _find_peaks(attention: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Attention B x n x N -> the mean position in a window around its largest value, B x n x 2, and
    the attention in this window, B x n."""
    rows, columns = grid
    largest = attention.argmax(dim=-1, keepdim=True)
    offsets = torch.arange(-WINDOW, WINDOW + 1, device=attention.device)
    down, across = rearrange(torch.cartesian_prod(offsets, offsets), "w c -> c w")
    row, column = largest // columns + down, largest % columns + across
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    tokens = (row * columns + column).clamp(0, rows * columns - 1)
    weights = attention.gather(-1, tokens) * inside
    peak = weights.sum(dim=-1)
    positions = torch.stack([(column + 0.5) / columns, (row + 0.5) / rows], dim=-1)
    return (weights[..., None] * positions).sum(dim=-2) / peak[..., None], peak


def locate_tokens(grid: tuple[int, int], device: torch.device | None = None) -> Tensor:
    """The centres (x, y) of a grid's tokens, row by row, N x 2 in 0..1."""
    rows, columns = grid
    y = (torch.arange(rows, device=device) + 0.5) / rows
    x = (torch.arange(columns, device=device) + 0.5) / columns
    y, x = torch.meshgrid(y, x, indexing="ij")
    return rearrange(torch.stack([x, y]), "c h w -> (h w) c")
