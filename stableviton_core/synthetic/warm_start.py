"""Hand-made initial weights of a unet that is trained from nothing: they copy what is known."""

from typing import Any, cast

import torch

from ..model.layers import GROUPS, ResBlock, SpatialTransformer, timestep_embedding
from ..model.unet import UNet
from ..schedule import alphas_cumprod
from ..training.initialization import zero_layer

CLOSED = 4.0  # a SiLU of minus this lets almost nothing through
ANCHOR = 12.0  # constant that dominates a group's normalisation
MASKED = 0.25  # usual share of the mask
HIGHEST, LOWEST = 5.0, 0.5  # gains
FAINTEST = 16.0  # anchor of the highest gain
LEAVE = 30.0  # anchor before the last normalisation


@torch.no_grad()
def start_from_denoiser(unet: UNet) -> None:
    """Initial weights with which the unet answers with the right noise where the keep-mask is 1,
    and with the noisy latent x itself where it is 0 (nearly right at high noise).

    In a 13-channel input the true latent is known outside the mask: it is the agnostic latent z.
    There eps = (x - sqrt(abar) z) / sqrt(1 - abar), and gains that depend on the time are what a
    small network learns last. Each latent channel travels from the first convolution over the last
    skip connection, so that with k = keep-mask

        eps = x - k (x - z / 2) + gain_1(t) k x - gain_2(t) k z

    A signal s goes as the pair s, -s, whose SiLUs differ by exactly s; the mask closes a pair by
    taking CLOSED from both. A third channel in the group of a normalisation, the anchor, sets what
    the pair is divided by, and the time embedding sets the anchor: these are the gains. All other
    residual branches end in zeros, as in Stable Diffusion. ValueError unless a group has three
    channels (width 96).
    """
    width, size = unet.config.model_channels, unet.config.model_channels // GROUPS
    if size != 3:
        raise ValueError(f"needs a base width of 96, got {width}")
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
    """Six channels: x, -x, z, -z, all closed where masked, and two anchors that keep their mean."""
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


def _gain_pairs(index: int) -> range:
    """First channels of a latent channel's three groups in the last block: x, z, and their sum."""
    return range(9 * index, 9 * index + 9, 3)


def _open_by_mask(last: ResBlock, index: int) -> None:
    """Undo the first normalisation, and make the pairs k x, k z and k (x - z / 2)."""
    norm, _, conv = cast(Any, last.in_layers)
    first = conv.in_channels // 2 + 6 * index  # the skip connection is the second half
    variance = (2 * ANCHOR**2 + 12 * CLOSED**2 * MASKED + 4) / 6  # of the six channels
    norm.weight[first : first + 6] = variance**0.5
    norm.bias[first : first + 6] = 0
    for group, (x, z) in zip(_gain_pairs(index), ((1, 0), (0, 1), (1, -0.5)), strict=True):
        conv.weight[group : group + 3] = 0
        conv.bias[group : group + 3] = 0
        for row, sign in ((group, 1), (group + 1, -1)):
            for offset, factor in enumerate((x, -x, z, -z)):
                conv.weight[row, first + offset, 1, 1] = sign * factor


def _apply_gains(last: ResBlock, index: int) -> None:
    """Channel 3 index of the block's answer: gain_1 k x - gain_2 k z - k (x - z / 2)."""
    norm, _, _, conv = cast(Any, last.out_layers)
    scale = _gain_scale() ** 0.5
    for group, sign in zip(_gain_pairs(index), (1, -1, -1), strict=True):
        norm.weight[group : group + 2] = scale
        norm.bias[group : group + 2] = scale * 0.5**0.5  # the mean that the anchor gives the group
        for row, target in ((3 * index, 1), (3 * index + 1, -1)):
            conv.weight[row, group, 1, 1] = sign * target * scale
            conv.weight[row, group + 1, 1, 1] = -sign * target * scale


def _gain_scale() -> float:
    """The deviation of a group whose anchor is FAINTEST, times the gain it stands for."""
    return HIGHEST * _deviation(FAINTEST, 1 - MASKED)


def _deviation(anchor: float, variance: float) -> float:
    """Of a group s, -s, anchor."""
    return (2 * variance / 3 + 2 * anchor**2 / 9) ** 0.5


def _leave(last: ResBlock, out: Any, index: int) -> None:
    """Add x to what `_apply_gains` made, and bring it through the last normalisation."""
    row, joint = 3 * index, cast(Any, last.skip_connection)
    joint.weight[row : row + 3] = 0
    joint.bias[row : row + 3] = torch.tensor([0, 0, LEAVE])
    first = joint.in_channels // 2 + 6 * index
    for offset, sign in ((0, 1), (1, -1)):  # (x - closed) - (-x - closed) = 2 x
        joint.weight[row + offset, first] = sign / 2
        joint.weight[row + offset, first + 1] = -sign / 2
    norm, _, conv = out
    deviation = _deviation(LEAVE, 1)
    norm.weight[row : row + 2] = deviation**0.5
    norm.bias[row : row + 2] = deviation**0.5 * LEAVE / 3 / deviation
    conv.weight[index, row, 1, 1] = deviation**0.5
    conv.weight[index, row + 1, 1, 1] = -(deviation**0.5)


def _set_anchors(unet: UNet, last: ResBlock) -> None:
    """Fit the last block's time projection so that its anchors make the gains, by least squares
    over all timesteps."""
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
        anchor = (((_gain_scale() / gain) ** 2 - 2 * variance / 3) * 4.5).sqrt()
        weights = torch.linalg.lstsq(features / anchor[:, None], torch.ones(len(abar), 1).double())
        for index in range(unet.config.latent_channels):
            group = _gain_pairs(index)[kind]
            project.weight[group : group + 2] = 0
            project.bias[group : group + 2] = 0
            project.weight[group + 2] = weights.solution[:-1, 0]
            project.bias[group + 2] = weights.solution[-1, 0]
