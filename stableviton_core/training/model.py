"""Everything that a checkpoint holds but the autoencoder, as one trainable module."""

from dataclasses import asdict

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from ..model.config import ClipConfig, ModelConfig
from ..model.image_projector import ImageProjector, clip_pixels
from ..model.zero_cross_attention import TryOnNetwork
from .vae import to_signed

TOWER = "vision_model."  # of CLIP's keys in a checkpoint; transformers 5 leaves it out


def build_clip(config: ClipConfig) -> CLIPVisionModel:
    return CLIPVisionModel(CLIPVisionConfig(**asdict(config)))


class TryOnModel(nn.Module):
    """Network, CLIP tower and condition head."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.network = TryOnNetwork(config.network)
        self.clip = build_clip(config.clip)
        self.image_projector = ImageProjector(config)

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        garment: Tensor,
        dropped: Tensor,
        embedding: Tensor | None = None,
        garment_image: Tensor | None = None,
    ) -> Tensor:
        """Predicted noise. x, timesteps, garment: as the network's. dropped: B bool, the items
        whose context is the learned vector. The others' comes from `embedding`, or from
        garment_image, B x H x W x 3 uint8, where that is trained."""
        if embedding is None:
            assert garment_image is not None
            embedding = self.embedding(to_signed(garment_image))
        context = self.image_projector.proj_out(embedding)
        context = torch.where(
            dropped[:, None, None], self.image_projector.learnable_vector, context
        )
        return self.network(x, timesteps, context, garment)

    def embedding(self, garment: Tensor) -> Tensor:
        """Garment pictures B x 3 x H x W in -1..1 -> B x 1 x CLIP's width, before the projection
        to the context's width."""
        pixels = clip_pixels(garment, self.config.clip.image_size).to(self.clip.dtype)
        return self.image_projector.embed(self.clip(pixel_values=pixels).pooler_output)

    def trains_embedding(self) -> bool:
        parts = (self.clip, self.image_projector.mapper, self.image_projector.final_ln)
        return any(parameter.requires_grad for part in parts for parameter in part.parameters())

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """State dicts as a checkpoint holds them (see `checkpoint.join`)."""
        return {
            "unet": self.network.unet.state_dict(),
            "zero_cross_attention": self.network.zero_cross_attention.state_dict(),
            "encoder": self.network.encoder.state_dict(),
            "clip": {TOWER + key: value for key, value in self.clip.state_dict().items()},
            "image_projector": self.image_projector.state_dict(),
        }

    def load_parts(self, parts: dict[str, dict[str, Tensor]]) -> None:
        self.network.unet.load_state_dict(parts["unet"])
        self.network.zero_cross_attention.load_state_dict(parts["zero_cross_attention"])
        self.network.encoder.load_state_dict(parts["encoder"])
        self.clip.load_state_dict({k.removeprefix(TOWER): v for k, v in parts["clip"].items()})
        self.image_projector.load_state_dict(parts["image_projector"])
