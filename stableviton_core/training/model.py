"""Everything that a checkpoint holds but the autoencoder, as one trainable module."""

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from ..condition import ConditionHead, clip_pixels
from ..config import ClipConfig, ModelConfig
from ..network import TryOnNetwork
from .autoencoder import to_signed

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

    def forward(
        self, x: Tensor, timesteps: Tensor, garment: Tensor, dropped: Tensor,
        embedding: Tensor | None = None, garment_image: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Predicted noise. x, timesteps, garment: as the network's. dropped: B bool, the items
        whose context is the learned vector. The others' comes from `embedding`, or from
        garment_image, B x H x W x 3 uint8, where that is trained."""
        if embedding is None:
            assert garment_image is not None
            embedding = self.embedding(to_signed(garment_image))
        context = self.condition.proj_out(embedding)
        context = torch.where(dropped[:, None, None], self.condition.learnable_vector, context)
        return self.network(x, timesteps, context, garment)

    def embedding(self, garment: Tensor) -> Tensor:
        """Garment pictures B x 3 x H x W in -1..1 -> B x 1 x CLIP's width, before the projection
        to the context's width."""
        pixels = clip_pixels(garment, self.config.clip.image_size).to(self.clip.dtype)
        return self.condition.embed(self.clip(pixel_values=pixels).pooler_output)

    def trains_embedding(self) -> bool:
        parts = (self.clip, self.condition.mapper, self.condition.final_ln)
        return any(parameter.requires_grad for part in parts for parameter in part.parameters())

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
