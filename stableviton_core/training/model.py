"""Everything that a checkpoint holds but the autoencoder, as one trainable module."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from ..condition import ConditionHead, clip_pixels
from ..config import ClipConfig, ModelConfig
from ..layers import GROUPS, ResBlock, SpatialTransformer
from ..network import Trunk, TryOnNetwork

TOWER = "vision_model."  # of CLIP's keys in a checkpoint; transformers 5 leaves it out


def build_clip(config: ClipConfig) -> CLIPVisionModel:
    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=config.width,
            intermediate_size=config.intermediate,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            image_size=config.image_size,
            patch_size=config.patch,
            hidden_act=config.activation,
        )
    )


class TryOnModel(nn.Module):
    """Network, CLIP tower and condition head."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.network = TryOnNetwork(config.network)
        self.clip = build_clip(config.clip)
        self.condition = ConditionHead(config)

    def context(self, garment: Tensor) -> Tensor:
        """Garment pictures B x 3 x H x W in -1..1 -> context B x 1 x context_width."""
        pixels = clip_pixels(garment, self.config.clip.image_size)
        return self.condition(self.clip(pixel_values=pixels).pooler_output)

    def unconditional(self, batch: int) -> Tensor:
        return self.condition.learnable_vector.expand(batch, -1, -1)

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """State dicts as a checkpoint holds them (see `checkpoint.join`)."""
        return {
            "trunk": self.network.trunk.state_dict(),
            "warp": self.network.warp.state_dict(),
            "encoder": self.network.encoder.state_dict(),
            "clip": {TOWER + key: value for key, value in self.clip.state_dict().items()},
            "condition": self.condition.state_dict(),
        }

    def load_parts(self, parts: dict[str, dict[str, Tensor]]) -> None:
        self.network.trunk.load_state_dict(parts["trunk"])
        self.network.warp.load_state_dict(parts["warp"])
        self.network.encoder.load_state_dict(parts["encoder"])
        self.clip.load_state_dict({k.removeprefix(TOWER): v for k, v in parts["clip"].items()})
        self.condition.load_state_dict(parts["condition"])


ANCHOR = 8.0
LINEAR = 8.0  # a SiLU of this plus a few is the identity


@torch.no_grad()
def start_from_identity(trunk: Trunk) -> None:
    """Initial weights with which the trunk answers with the noisy latent itself, which at high
    noise is nearly the right answer; for a network that is trained from nothing.

    Residual branches end in zeros, as in Stable Diffusion. Each channel of the latent travels from
    the first convolution over the last skip connection to the output, in a group of its own with
    two constant channels (ANCHOR and its negative). They dominate the group's normalisation, which
    would else divide out the latent's mean and scale. ValueError for fewer than three channels a
    group (width 96).
    """
    width, size = trunk.config.base_width, trunk.config.base_width // GROUPS
    if size < 3:
        raise ValueError(f"needs a base width of 96 or more, got {width}")
    for module in trunk.modules():
        if isinstance(module, ResBlock):
            _zero(module.out_layers[3])
        elif isinstance(module, SpatialTransformer):
            _zero(module.proj_out)
    layers: Any = trunk
    entry, joint = layers.input_blocks[0][0], layers.output_blocks[-1][0].skip_connection
    norm, leave = layers.out[0], layers.out[2]
    _zero(leave)
    deviation = ((1 + 2 * ANCHOR**2) / size) ** 0.5  # of a group with unit noise
    for index in range(trunk.config.latent_channels):
        first = 4 * index * size
        group = slice(first, first + size)
        entry.weight[group] = 0
        entry.bias[group] = 0
        entry.weight[first, index, 1, 1] = 1
        entry.bias[first + 1 : first + 3] = torch.tensor([ANCHOR, -ANCHOR])
        joint.weight[group] = 0
        joint.bias[group] = 0
        for channel in range(first, first + size):
            joint.weight[channel, joint.in_channels - width + channel] = 1
        # The normalised noise is n - mean(n) / size over the deviation: the second channel, which
        # is ANCHOR - mean(n) / size, gives that mean back.
        norm.weight[first : first + 2] = deviation
        norm.bias[first], norm.bias[first + 1] = LINEAR, LINEAR
        leave.weight[index, first, 1, 1] = 1
        leave.weight[index, first + 1, 1, 1] = -1
        leave.bias[index] = ANCHOR


def _zero(layer: Any) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def zero_init(network: TryOnNetwork) -> None:
    """Zero the layers that start without influence: zero convolutions and the garment's entry
    (paper, section 3.2)."""
    for layer in (*network.warp.warp_zero_convs, network.encoder.cond_first_block[0]):
        _zero(layer)


@torch.no_grad()
def copy_encoder(network: TryOnNetwork) -> None:
    """The spatial encoder starts as a copy of the trunk's encoder."""
    own = network.encoder.state_dict()
    shared = {k: v for k, v in network.trunk.state_dict().items() if k in own}
    network.encoder.load_state_dict(own | shared)
