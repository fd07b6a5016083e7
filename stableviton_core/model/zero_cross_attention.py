"""Zero cross-attention from the UNet's decoder to the garment (paper, section 3.2)."""

from torch import Tensor, nn

from .config import NetworkConfig
from .layers import TORCH, Backend, SpatialTransformer, to_tokens
from .unet import SpatialEncoder, UNet


class ZeroCrossAttention(nn.Module):
    """The decoder's attention to the garment, at every output block but the lowest resolution's.

    forward: output_block; h B x C x H x W that enters it; the spatial encoder's garment features ->
    h + strength * zero_conv(transformer(h, garment feature)); h itself where the block has none.
    """

    def __init__(self, config: NetworkConfig, backend: Backend = TORCH):
        super().__init__()
        self.config = config
        conv = backend.operations.Conv2d
        channels = config.cross_attention_channels
        self.warp_flow_blks = nn.ModuleList(
            SpatialTransformer(query, garment, config.num_heads, backend)
            for query, garment in channels
        )
        self.warp_zero_convs = nn.ModuleList(conv(query, query, 1) for query, _ in channels)

    def forward(
        self, output_block: int, h: Tensor, garment_features: list[Tensor], strength: float = 1.0
    ) -> Tensor:
        index = self.config.cross_attention_index(output_block)
        if index is None:
            return h
        garment = to_tokens(garment_features[self.config.skip_index(output_block)])
        return h + strength * self.warp_zero_convs[index](self.warp_flow_blks[index](h, garment))


class TryOnNetwork(nn.Module):
    """UNet, spatial encoder and zero cross-attention together: what is trained.

    forward: x B x 13 x H x W = noisy latent (4), agnostic latent (4), keep-mask (1), DensePose
    latent (4); timesteps B; context B x 1 x context_dim; garment latent B x 4 x H x W ->
    predicted noise B x 4 x H x W.
    """

    def __init__(self, config: NetworkConfig, backend: Backend = TORCH):
        super().__init__()
        self.config = config
        self.unet = UNet(config, backend)
        self.encoder = SpatialEncoder(config, backend)
        self.zero_cross_attention = ZeroCrossAttention(config, backend)

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, garment: Tensor) -> Tensor:
        features = self.encoder(x, timesteps, context, garment)
        return self.unet(
            x, timesteps, context, lambda block, h: self.zero_cross_attention(block, h, features)
        )
