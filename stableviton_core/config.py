"""What a network looks like. Every width and block position is derived from these numbers."""

from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(frozen=True)
class NetworkConfig:
    """A UNet of Stable Diffusion 1.5's family and the try-on parts beside it.

    base_width: channels of the first level. multipliers: channels of each level over base_width.
    blocks: residual blocks a level (the decoder has one more). attention: factors of downsampling
    at which blocks attend. Defaults are the released network's.
    """

    base_width: int = 320
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    attention: tuple[int, ...] = (1, 2, 4)
    heads: int = 8
    context_width: int = 768
    in_channels: int = 13
    latent_channels: int = 4

    @property
    def levels(self) -> int:
        return len(self.multipliers)

    def width(self, level: int) -> int:
        return self.base_width * self.multipliers[level]

    def attends(self, level: int) -> bool:
        return 2**level in self.attention

    @property
    def time_width(self) -> int:
        return 4 * self.base_width

    @property
    def input_widths(self) -> tuple[int, ...]:
        """Channels after each input block: the first convolution, then level by level the blocks
        and (but for the last level) the downsampling."""
        widths = [self.base_width]
        for level in range(self.levels):
            widths += [self.width(level)] * self.blocks
            if level < self.levels - 1:
                widths.append(self.width(level))
        return tuple(widths)

    @property
    def output_widths(self) -> tuple[int, ...]:
        """Channels after each output block, lowest resolution first."""
        return tuple(
            self.width(level)
            for level in reversed(range(self.levels))
            for _ in range(self.blocks + 1)
        )

    @property
    def first_warped_block(self) -> int:
        """The first output block with zero cross-attention: all but the lowest resolution's."""
        return self.blocks + 1

    def warp_index(self, output_block: int) -> int | None:
        """Which zero cross-attention serves an output block; None for the lowest resolution."""
        index = output_block - self.first_warped_block
        return index if index >= 0 else None

    def skip_index(self, output_block: int) -> int:
        """The input block whose map an output block concatenates and attends to."""
        return len(self.input_widths) - 1 - output_block

    @property
    def warp_widths(self) -> tuple[tuple[int, int], ...]:
        """(query width, garment map width) of each zero cross-attention.

        The query is what enters the output block before the skip connection is concatenated: the
        output of the block before it.
        """
        return tuple(
            (query, self.input_widths[self.skip_index(block)])
            for block, (query, _) in enumerate(pairwise(self.output_widths), start=1)
            if block >= self.first_warped_block
        )


@dataclass(frozen=True)
class ClipConfig:
    """A CLIP vision tower. Defaults are ViT-L/14's."""

    width: int = 1024
    layers: int = 24
    heads: int = 16
    intermediate: int = 4096
    image_size: int = 224
    patch: int = 14
    activation: str = "quick_gelu"


@dataclass(frozen=True)
class AutoencoderConfig:
    """A Stable Diffusion AutoencoderKL. latent_scale: what latents are multiplied with."""

    base_width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
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
