"""Softmax maps of the zero cross-attention, for the losses and measures that look at where on the
garment a person token attends."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..errors import StableVITONError
from .layers import CrossAttention, split_heads
from .zero_cross_attention import ZeroCrossAttention


class AttentionRecorder:
    """Records the attention to the garment (`attn2`) of zero cross-attention blocks 0, 1, ... in
    every forward pass, until `remove`. StableVITONError for a block that does not exist.

    maps: of each block's last forward pass, B x person tokens x garment tokens, float32, averaged
    over the heads; gradients flow through them. A forward hook recomputes them from the layer's
    inputs; the layer's own output is not affected.
    """

    def __init__(self, zero_cross_attention: ZeroCrossAttention, blocks: Sequence[int]):
        transformers: Any = zero_cross_attention.warp_flow_blks
        if any(block not in range(len(transformers)) for block in blocks):
            raise StableVITONError(
                f"zero cross-attention blocks are of 0..{len(transformers) - 1} in this network, "
                f"got {list(blocks)}"
            )
        self.maps: dict[int, Tensor] = {}
        layers = {block: transformers[block].transformer_blocks[0].attn2 for block in blocks}
        self._handles = [
            layer.register_forward_hook(partial(self._record, block))
            for block, layer in layers.items()
        ]

    def _record(
        self, block: int, layer: CrossAttention, inputs: tuple[Tensor, Tensor], _output: Tensor
    ) -> None:
        x, context = inputs
        q, k = (split_heads(t, layer.num_heads) for t in (layer.to_q(x), layer.to_k(context)))
        with torch.autocast(q.device.type, enabled=False):
            scores = q.float() @ k.float().mT * q.shape[-1] ** -0.5
            self.maps[block] = scores.softmax(dim=-1).mean(dim=1)

    def remove(self) -> None:
        """Stop recording: remove the hooks. The last maps stay."""
        for handle in self._handles:
            handle.remove()
