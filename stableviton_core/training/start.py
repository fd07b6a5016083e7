"""Initial weights of a fine-tuning (paper, section 3.2)."""

from typing import Any

import torch
from torch import nn

from ..network import TryOnNetwork


def zero_init(network: TryOnNetwork) -> None:
    """Zero the layers that start without influence: zero convolutions and the garment's entry
    (paper, section 3.2)."""
    for layer in (*network.warp.warp_zero_convs, network.encoder.cond_first_block[0]):
        zero(layer)


@torch.no_grad()
def copy_encoder(network: TryOnNetwork) -> None:
    """The spatial encoder starts as a copy of the trunk's encoder."""
    own = network.encoder.state_dict()
    shared = {k: v for k, v in network.trunk.state_dict().items() if k in own}
    network.encoder.load_state_dict(own | shared)


def zero(layer: Any) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
