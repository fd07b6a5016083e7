"""Softmax maps of the zero cross-attention, for the losses and measures that look at where on the
garment a person token attends."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ..errors import StableVITONError
from .config import NetworkConfig
from .layers import CrossAttention, split_heads
from .zero_cross_attention import ZeroCrossAttention


def token_grid(network: NetworkConfig, block: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the tokens of a zero cross-attention block, for latents h x w."""
    output_block = network.first_cross_attention_block + block
    level = network.levels - 1 - output_block // (network.num_res_blocks + 1)
    for _ in range(level):  # a downsampling rounds up
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width


def hook_attention(
    zero_cross_attention: ZeroCrossAttention,
    blocks: Sequence[int],
    receive: Callable[[int, Tensor, Tensor], None],
) -> list[RemovableHandle]:
    """Have `receive` called in every forward pass with the block, the queries of the person tokens
    and the keys of the garment tokens, B x heads x N x channels, of zero cross-attention blocks.

    Both are recomputed from the layer's inputs; its own output is not affected.
    """

    def compute(
        block: int, layer: CrossAttention, inputs: tuple[Tensor, Tensor], _output: Tensor
    ) -> None:
        x, context = inputs
        q, k = (split_heads(t, layer.num_heads) for t in (layer.to_q(x), layer.to_k(context)))
        receive(block, q, k)

    transformers: Any = zero_cross_attention.warp_flow_blks
    layers = {block: transformers[block].transformer_blocks[0].attn2 for block in blocks}
    return [layer.register_forward_hook(partial(compute, block)) for block, layer in layers.items()]


class AttentionRecorder:
    """Records the attention to the garment (`attn2`) of zero cross-attention blocks 0, 1, ... in
    every forward pass, until `remove`. StableVITONError for a block that does not exist.

    maps: of each block's last forward pass, B x person tokens x garment tokens, float32, averaged
    over the heads; gradients flow through them.
    """

    def __init__(self, zero_cross_attention: ZeroCrossAttention, blocks: Sequence[int]):
        count = len(zero_cross_attention.warp_flow_blks)
        if any(block not in range(count) for block in blocks):
            raise StableVITONError(
                f"zero cross-attention blocks are of 0..{count - 1} in this network, "
                f"got {list(blocks)}"
            )
        self.maps: dict[int, Tensor] = {}
        self._handles = hook_attention(zero_cross_attention, blocks, self._record)

    def _record(self, block: int, q: Tensor, k: Tensor) -> None:
        with torch.autocast(q.device.type, enabled=False):
            scores = q.float() @ k.float().mT * q.shape[-1] ** -0.5
            self.maps[block] = scores.softmax(dim=-1).mean(dim=1)

    def remove(self) -> None:
        """Stop recording: remove the hooks. The last maps stay."""
        for handle in self._handles:
            handle.remove()
