"""The sizes of a network. Every channel count and block position is derived from these numbers."""

from dataclasses import dataclass, field
from itertools import pairwise

# Order of the UNet's input channels after the noisy latent (4): agnostic latent (4), keep-mask (1),
# DensePose latent (4).
CONCATENATED_INPUTS = ("agnostic", "keep", "densepose")


@dataclass(frozen=True)
class NetworkConfig:
    """A UNet of Stable Diffusion 1.5's family, its spatial encoder and zero cross-attention.

    model_channels: channels at full resolution. channel_mult: channels of each level over
    model_channels. num_res_blocks: residual blocks a level (the decoder has one more). attention:
    downsampling factors with a spatial transformer. Defaults are the released network's.
    """

    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attention: tuple[int, ...] = (1, 2, 4)
    num_heads: int = 8
    context_dim: int = 768
    in_channels: int = 13
    latent_channels: int = 4

    @property
    def levels(self) -> int:
        return len(self.channel_mult)

    def level_channels(self, level: int) -> int:
        return self.model_channels * self.channel_mult[level]

    def has_attention(self, level: int) -> bool:
        return 2**level in self.attention

    @property
    def time_embed_dim(self) -> int:
        return 4 * self.model_channels

    @property
    def input_channels(self) -> tuple[int, ...]:
        """Channels after each input block: the first convolution, then level by level the residual
        blocks and (except at the last level) the downsampling."""
        channels = [self.model_channels]
        for level in range(self.levels):
            blocks = self.num_res_blocks + (level < self.levels - 1)
            channels += [self.level_channels(level)] * blocks
        return tuple(channels)

    @property
    def output_channels(self) -> tuple[int, ...]:
        """Channels after each output block, lowest resolution first."""
        return tuple(
            self.level_channels(level)
            for level in reversed(range(self.levels))
            for _ in range(self.num_res_blocks + 1)
        )

    @property
    def first_cross_attention_block(self) -> int:
        """The first output block with zero cross-attention: those of the lowest resolution have
        none."""
        return self.num_res_blocks + 1

    def cross_attention_index(self, output_block: int) -> int | None:
        """The zero cross-attention of an output block; None at the lowest resolution."""
        index = output_block - self.first_cross_attention_block
        return index if index >= 0 else None

    @property
    def first_full_resolution_block(self) -> int:
        """The first output block at the resolution of the latent."""
        return (self.levels - 1) * (self.num_res_blocks + 1)

    def skip_index(self, output_block: int) -> int:
        """The input block whose feature map an output block concatenates, and whose garment
        feature it attends to."""
        return len(self.input_channels) - 1 - output_block

    @property
    def num_garment_features(self) -> int:
        """How many of the spatial encoder's input blocks a zero cross-attention attends to: the
        first ones, 9 of 12 in the released network."""
        return self.skip_index(self.first_cross_attention_block) + 1

    @property
    def cross_attention_channels(self) -> tuple[tuple[int, int], ...]:
        """(query channels, garment feature channels) of each zero cross-attention.

        The query is what enters the output block before the skip connection is concatenated: the
        output of the block before it.
        """
        return tuple(
            (query, self.input_channels[self.skip_index(block)])
            for block, (query, _) in enumerate(pairwise(self.output_channels), start=1)
            if block >= self.first_cross_attention_block
        )


@dataclass(frozen=True)
class ClipConfig:
    """A CLIP vision tower, in the names of transformers' CLIPVisionConfig; ViT-L/14 by default."""

    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    image_size: int = 224
    patch_size: int = 14
    hidden_act: str = "quick_gelu"


@dataclass(frozen=True)
class AutoencoderConfig:
    """A Stable Diffusion AutoencoderKL. latent_scale: the factor that latents are scaled by."""

    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    latent_channels: int = 4
    latent_scale: float = 0.18215


@dataclass(frozen=True)
class ModelConfig:
    """All networks of a checkpoint. mapper_layers, mapper_heads: of the image projector's
    transformer, whose channels are CLIP's hidden_size."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    mapper_layers: int = 5
    mapper_heads: int = 1
