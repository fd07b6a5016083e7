"""Everything in a checkpoint except the autoencoder, as one trainable module."""

from dataclasses import asdict

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from .config import ClipConfig, ModelConfig
from .expected_shapes import TOWER
from .image_projector import ImageProjector, preprocess_for_clip
from .vae import normalize_uint8
from .zero_cross_attention import TryOnNetwork


def build_clip(config: ClipConfig) -> CLIPVisionModel:
    return CLIPVisionModel(CLIPVisionConfig(**asdict(config)))


class TryOnModel(nn.Module):
    """Network (UNet, spatial encoder, zero cross-attention), CLIP tower and image projector."""

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
        drop_mask: Tensor,
        embedding: Tensor | None = None,
        garment_image: Tensor | None = None,
    ) -> Tensor:
        """Predicted noise, B x 4 x h x w. x, timesteps, garment: as `TryOnNetwork`'s. drop_mask: B
        bool, items whose context is the learned vector. The context of the others is projected from
        `embedding`, or from garment_image, B x H x W x 3 uint8, where its encoder is trained."""
        if embedding is None:
            assert garment_image is not None
            embedding = self.embed_garment(normalize_uint8(garment_image))
        projector = self.image_projector
        context = projector.proj_out(embedding)
        context = torch.where(drop_mask[:, None, None], projector.learnable_vector, context)
        return self.network(x, timesteps, context, garment)

    def embed_garment(self, garment: Tensor) -> Tensor:
        """Garment images B x 3 x H x W in -1..1 -> B x 1 x CLIP's width, before the projection to
        the context's width."""
        pixels = preprocess_for_clip(garment, self.config.clip.image_size).to(self.clip.dtype)
        return self.image_projector.embed(self.clip(pixel_values=pixels).pooler_output)

    def trains_embedding(self) -> bool:
        """Whether `embed_garment` has trained parameters, so that its result cannot be cached."""
        modules = (self.clip, self.image_projector.mapper, self.image_projector.final_ln)
        return any(p.requires_grad for module in modules for p in module.parameters())

    def components(self) -> dict[str, dict[str, Tensor]]:
        """State dicts as a checkpoint holds them (see `checkpoint.join`)."""
        return {
            "unet": self.network.unet.state_dict(),
            "zero_cross_attention": self.network.zero_cross_attention.state_dict(),
            "encoder": self.network.encoder.state_dict(),
            "clip": {TOWER + key: value for key, value in self.clip.state_dict().items()},
            "image_projector": self.image_projector.state_dict(),
        }

    def load_components(self, components: dict[str, dict[str, Tensor]]) -> None:
        self.network.unet.load_state_dict(components["unet"])
        self.network.zero_cross_attention.load_state_dict(components["zero_cross_attention"])
        self.network.encoder.load_state_dict(components["encoder"])
        self.clip.load_state_dict({k.removeprefix(TOWER): v for k, v in components["clip"].items()})
        self.image_projector.load_state_dict(components["image_projector"])
