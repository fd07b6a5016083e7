"""What a network looks like. Every width and block position is derived from these numbers."""

from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(frozen=True)
class NetworkConfig:
    """A UNet of Stable Diffusion 1.5's family and the try-on parts beside it.

    model_channels: channels of the first level. channel_mult: channels of each level over model_channels.
    blocks: residual blocks a level (the decoder has one more). attention: factors of downsampling
    at which blocks attend. Defaults are the released network's.
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

    def width(self, level: int) -> int:
        return self.model_channels * self.channel_mult[level]

    def attends(self, level: int) -> bool:
        return 2**level in self.attention

    @property
    def time_width(self) -> int:
        return 4 * self.model_channels

    @property
    def input_widths(self) -> tuple[int, ...]:
        """Channels after each input block: the first convolution, then level by level the blocks
        and (but for the last level) the downsampling."""
        widths = [self.model_channels]
        for level in range(self.levels):
            widths += [self.width(level)] * self.num_res_blocks
            if level < self.levels - 1:
                widths.append(self.width(level))
        return tuple(widths)

    @property
    def output_widths(self) -> tuple[int, ...]:
        """Channels after each output block, lowest resolution first."""
        return tuple(
            self.width(level)
            for level in reversed(range(self.levels))
            for _ in range(self.num_res_blocks + 1)
        )

    @property
    def first_cross_attention_block(self) -> int:
        """The first output block with zero cross-attention: all but the lowest resolution's."""
        return self.num_res_blocks + 1

    def cross_attention_index(self, output_block: int) -> int | None:
        """Which zero cross-attention serves an output block; None for the lowest resolution."""
        index = output_block - self.first_cross_attention_block
        return index if index >= 0 else None

    def skip_index(self, output_block: int) -> int:
        """The input block whose map an output block concatenates and attends to."""
        return len(self.input_widths) - 1 - output_block

    @property
    def cross_attention_widths(self) -> tuple[tuple[int, int], ...]:
        """(query width, garment map width) of each zero cross-attention.

        The query is what enters the output block before the skip connection is concatenated: the
        output of the block before it.
        """
        return tuple(
            (query, self.input_widths[self.skip_index(block)])
            for block, (query, _) in enumerate(pairwise(self.output_widths), start=1)
            if block >= self.first_cross_attention_block
        )


@dataclass(frozen=True)
class ClipConfig:
    """A CLIP vision tower, in the names of transformers' CLIPVisionConfig. Defaults are ViT-L/14's."""

    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    image_size: int = 224
    patch_size: int = 14
    hidden_act: str = "quick_gelu"


@dataclass(frozen=True)
class AutoencoderConfig:
    """A Stable Diffusion AutoencoderKL. latent_scale: what latents are multiplied with."""

    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    latent_channels: int = 4
    latent_scale: float = 0.18215


@dataclass(frozen=True)
class ModelConfig:
    """Everything a checkpoint holds. mapper_layers: depth of the condition's transformer, which
    has CLIP's width and `mapper_heads` heads."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    mapper_layers: int = 5
    mapper_heads: int = 1
