"""Everything that a checkpoint holds but the autoencoder, as one trainable module."""

from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from ..condition import ConditionHead, clip_pixels
from ..config import ClipConfig, ModelConfig
from ..network import TryOnNetwork

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
