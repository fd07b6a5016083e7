"""Initial weights, set by hand, for a UNet that is trained from nothing: where the keep-mask is 1
the noise follows from the input."""

from typing import Any, cast

import torch

from ..model.layers import GROUPS, ResBlock, SpatialTransformer, timestep_embedding
from ..model.unet import UNet
from ..schedule import alphas_cumprod
from ..training.initialization import zero_layer

CLOSED = 4.0  # SiLU(-CLOSED) is almost 0
ANCHOR = 12.0  # constant that dominates the normalization of a group
MASKED = 0.25  # expected share of masked positions
HIGHEST, LOWEST = 5.0, 0.5  # gains
LOWEST_ANCHOR = 16.0  # anchor of the highest gain
LEAVE = 30.0  # anchor before the last normalization


@torch.no_grad()
def initialize_denoiser(unet: UNet) -> None:
    """Set initial weights with which the UNet predicts the true noise where the keep-mask is 1, and
    the noisy latent x where it is 0 (nearly right at high noise).

    In the 13-channel input the true latent outside the mask is known: it is the agnostic latent z,
    and eps = (x - sqrt(abar) z) / sqrt(1 - abar). A small network learns gains that depend on the
    timestep last. So each latent channel goes from the first convolution through the last skip
    connection, and with k = keep-mask

        eps = x - k (x - z / 2) + gain_1(t) k x - gain_2(t) k z

    A signal s is carried by the pair s, -s, whose SiLUs differ by exactly s; the mask closes a pair
    by subtracting CLOSED from both. The third channel in the group of a normalization, the anchor,
    sets the divisor of the pair, and the time embedding sets the anchor: these are the gains. All
    other residual branches end in zeros, as in Stable Diffusion. ValueError unless a group has
    three channels (96 model channels).
    """
    width, size = unet.config.model_channels, unet.config.model_channels // GROUPS
    if size != 3:
        raise ValueError(f"needs 96 model channels, got {width}")
    for module in unet.modules():
        if isinstance(module, ResBlock):
            zero_layer(module.out_layers[3])
        elif isinstance(module, SpatialTransformer):
            zero_layer(module.proj_out)
    layers: Any = unet
    zero_layer(layers.out[2])
    last = layers.output_blocks[-1][0]
    for index in range(unet.config.latent_channels):
        _enter(layers.input_blocks[0][0], index)
        _open_by_mask(last, index)
        _apply_gains(last, index)
        _leave(last, layers.out, index)
    _set_anchors(unet, last)


def _enter(entry: Any, index: int) -> None:
    """Six channels: x, -x, z, -z, closed where masked, and two anchors that keep the mean."""
    latent, keep = 4, 8  # input channels: noisy latent 0..3, agnostic latent 4..7, keep-mask 8
    first = 6 * index
    entry.weight[first : first + 6] = 0
    for offset, (channel, sign) in enumerate(
        ((index, 1), (index, -1), (latent + index, 1), (latent + index, -1))
    ):
        entry.weight[first + offset, channel, 1, 1] = sign
        entry.weight[first + offset, keep, 1, 1] = CLOSED
        entry.bias[first + offset] = -CLOSED
    for offset, anchor in ((4, ANCHOR), (5, -ANCHOR)):
        entry.weight[first + offset, keep, 1, 1] = -2 * CLOSED
        entry.bias[first + offset] = anchor + 2 * CLOSED


def _find_gain_groups(index: int) -> range:
    """First channels of a latent channel's groups in the last block: k x, k z, k (x - z / 2)."""
    return range(9 * index, 9 * index + 9, 3)


def _open_by_mask(last: ResBlock, index: int) -> None:
    """Undo the first normalization, and form the pairs of k x, k z and k (x - z / 2)."""
    norm, _, conv = cast(Any, last.in_layers)
    first = conv.in_channels // 2 + 6 * index  # the skip connection is the second half
    variance = (2 * ANCHOR**2 + 12 * CLOSED**2 * MASKED + 4) / 6  # of the six channels
    norm.weight[first : first + 6] = variance**0.5
    norm.bias[first : first + 6] = 0
    for group, (x, z) in zip(_find_gain_groups(index), ((1, 0), (0, 1), (1, -0.5)), strict=True):
        conv.weight[group : group + 3] = 0
        conv.bias[group : group + 3] = 0
        for row, sign in ((group, 1), (group + 1, -1)):
            for offset, factor in enumerate((x, -x, z, -z)):
                conv.weight[row, first + offset, 1, 1] = sign * factor


def _apply_gains(last: ResBlock, index: int) -> None:
    """Output channel 3 * index of the block: gain_1 k x - gain_2 k z - k (x - z / 2)."""
    norm, _, _, conv = cast(Any, last.out_layers)
    scale = _compute_gain_scale() ** 0.5
    for group, sign in zip(_find_gain_groups(index), (1, -1, -1), strict=True):
        norm.weight[group : group + 2] = scale
        norm.bias[group : group + 2] = scale * 0.5**0.5  # the mean due to the anchor
        for row, target in ((3 * index, 1), (3 * index + 1, -1)):
            conv.weight[row, group, 1, 1] = sign * target * scale
            conv.weight[row, group + 1, 1, 1] = -sign * target * scale


def _compute_gain_scale() -> float:
    """Standard deviation of a group with LOWEST_ANCHOR, times the gain of that anchor."""
    return HIGHEST * _compute_deviation(LOWEST_ANCHOR, 1 - MASKED)


def _compute_deviation(anchor: float, variance: float) -> float:
    """Standard deviation of a group s, -s, anchor; variance: of s."""
    return (2 * variance / 3 + 2 * anchor**2 / 9) ** 0.5


def _leave(last: ResBlock, out: Any, index: int) -> None:
    """Add x to the output of `_apply_gains`, and pass it through the last normalization."""
    row, skip = 3 * index, cast(Any, last.skip_connection)
    skip.weight[row : row + 3] = 0
    skip.bias[row : row + 3] = torch.tensor([0, 0, LEAVE])
    first = skip.in_channels // 2 + 6 * index
    for offset, sign in ((0, 1), (1, -1)):  # (x - closed) - (-x - closed) = 2 x
        skip.weight[row + offset, first] = sign / 2
        skip.weight[row + offset, first + 1] = -sign / 2
    norm, _, conv = out
    deviation = _compute_deviation(LEAVE, 1)
    norm.weight[row : row + 2] = deviation**0.5
    norm.bias[row : row + 2] = deviation**0.5 * LEAVE / 3 / deviation
    conv.weight[index, row, 1, 1] = deviation**0.5
    conv.weight[index, row + 1, 1, 1] = -(deviation**0.5)


def _set_anchors(unet: UNet, last: ResBlock) -> None:
    """Fit the time projection of the last block to the anchors of the gains, by least squares over
    all timesteps."""
    abar = alphas_cumprod()
    sigma = (1 - abar).sqrt()
    gains = {
        0: (1 / sigma).clamp(max=HIGHEST),
        1: (abar.sqrt() / sigma).clamp(max=HIGHEST - LOWEST) + LOWEST,
        2: torch.ones_like(sigma),
    }
    embedding = timestep_embedding(torch.arange(len(abar)), unet.config.model_channels)
    features = last.emb_layers[0](unet.time_embed(embedding)).double()
    features = torch.cat([features, torch.ones(len(abar), 1)], dim=1)
    project: Any = last.emb_layers[1]
    for kind, gain in gains.items():
        variance = (1 - MASKED) * (1.25 if kind == 2 else 1)
        anchor = (((_compute_gain_scale() / gain) ** 2 - 2 * variance / 3) * 4.5).sqrt()
        weights = torch.linalg.lstsq(features / anchor[:, None], torch.ones(len(abar), 1).double())
        for index in range(unet.config.latent_channels):
            group = _find_gain_groups(index)[kind]
            project.weight[group : group + 2] = 0
            project.bias[group : group + 2] = 0
            project.weight[group + 2] = weights.solution[:-1, 0]
            project.bias[group + 2] = weights.solution[-1, 0]
