"""The start of a training: a checkpoint made from the released start, Paint-by-Example or Stable
Diffusion 1.5 (paper, section 4.1)."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from ..errors import CheckpointError
from ..model.checkpoint import (
    LICENSE_KEY,
    RELEASED_LICENSE,
    check_finite,
    compare_shapes,
    join,
    list_module_shapes,
    raise_mismatches,
    split,
)
from ..model.config import ModelConfig
from ..model.config_metadata import config_from_metadata
from ..model.expected_shapes import TOWER, list_clip_shapes
from ..model.pretrained import explain_unwritable, load_model, save_weights
from ..model.tryon_model import TryOnModel
from ..model.unet import UNet
from ..model.vae import load_autoencoder, to_ldm
from ..model.weight_reader import Weights, explain_file, read_weights
from ..model.zero_cross_attention import TryOnNetwork

INPUT_CONVOLUTION_KEY = "input_blocks.0.0.weight"
GARMENT_INPUT = "cond_first_block."  # of the spatial encoder, zero at first
SOURCE_LICENSE = "CreativeML OpenRAIL-M"  # of Stable Diffusion 1.5 and Paint-by-Example
SOURCES = {  # by input channels of the UNet
    4: "a Stable Diffusion 1.5",
    9: "a Paint-by-Example or inpainting",
    13: "a StableVITON",
}


def load_initial_model(init: Path, vae: Path | None) -> tuple[TryOnModel, AutoencoderKL, str]:
    """`load_model`; a CheckpointError about `init` also names the command that makes a start."""
    try:
        return load_model(init, vae)
    except CheckpointError as error:
        if not init.is_file() or (vae and str(vae) in str(error)):
            raise
        raise CheckpointError(
            f"{error}\nTo start from a file that is no complete StableVITON checkpoint, such as "
            "Paint-by-Example, first make one of it: `python -m stableviton_core init "
            f"{init.name} start.safetensors`, then give that as --init."
        ) from error


def initialize_checkpoint(
    source: Path,
    output: Path,
    clip: Path | None = None,
    dtype: str = "fp16",
    config: ModelConfig | None = None,
    license: str | None = None,
) -> list[str]:
    """Write a StableVITON checkpoint that predicts what the source does: its UNet with zero weights
    for the new input channels. What it has beyond a UNet is taken over; without, the spatial
    encoder is a copy of the UNet's, and zero cross-attention has zero convolutions of zero.

    source: 4, 9 or 13 input channels; the released start (VITONHD_PBE_pose.ckpt) has 13. clip: a
    CLIP vision tower's .safetensors, required where the source has none (Stable Diffusion has a
    text tower). config: sizes, if not those in the source's metadata or else the released ones.
    license: written where the source's metadata names none; by default the one of such sources.
    Returns the newly initialized components. CheckpointError where a file holds something else.
    """
    torch.manual_seed(0)
    weights, metadata = read_weights(source)
    components = split(weights)
    del components["unknown"]
    # sizes are compared with the file's before a network of them is built
    with explain_file(source):
        check_finite(join(components))
        config = config or config_from_metadata(metadata)
    unet = _select_unet(config, source, components["unet"])
    tower = _select_tower(config, source, components["clip"], clip)
    autoencoder = load_autoencoder(config.autoencoder, components["autoencoder"], source)
    model = TryOnModel(config)
    model.network.unet.load_state_dict(_to_float(unet))
    model.clip.load_state_dict(_to_float(tower))
    new = []
    zero_initial_layers(model.network)
    encoder, weights = model.network.encoder, components["encoder"]
    state = encoder.state_dict()
    garment_input = {key: value for key, value in state.items() if key.startswith(GARMENT_INPUT)}
    if not _load_part(source, "encoder", encoder, weights and garment_input | weights):
        copy_encoder(model.network)
        new.append("spatial encoder (control_model.*; a copy of the UNet's encoder)")
    cross_attention = model.network.zero_cross_attention
    name = "zero_cross_attention"
    if not _load_part(source, name, cross_attention, components[name]):
        new.append("zero cross-attention (model.diffusion_model.warp_*)")
    if not _load_image_projector(model, components["image_projector"]):
        new.append(
            "image projector (proj_out.*, learnable_vector; cond_stage_model.mapper.* is the "
            "identity)"
        )
    weights = join(model.components() | {"autoencoder": to_ldm(autoencoder)})
    known = RELEASED_LICENSE if _count_channels(components["unet"]) == 13 else SOURCE_LICENSE
    license = metadata.get(LICENSE_KEY, license or known)
    with explain_unwritable(output):
        save_weights(output, weights, model.config, dtype, {LICENSE_KEY: license})
    return new


def widen_input_convolution(weight: Tensor, channels: int) -> Tensor:
    """out x in x 3 x 3 -> out x channels x 3 x 3; the new channels come last and are zero."""
    missing = channels - weight.shape[1]
    zeros = weight.new_zeros(weight.shape[0], missing, *weight.shape[2:])
    return torch.cat([weight, zeros], dim=1)


def _select_unet(config: ModelConfig, source: Path, weights: Weights) -> Weights:
    """A UNet's weights, with all input channels. CheckpointError where they are of another network
    than the configuration's."""
    channels = _count_channels(weights)
    if channels not in SOURCES:
        content = f"a UNet of {channels} input channels" if channels else "no UNet"
        raise CheckpointError(
            f"{source} has {content}. Expected {' or '.join(SOURCES.values())} checkpoint "
            f"({' or '.join(map(str, SOURCES))} channels)."
        )
    first = widen_input_convolution(weights[INPUT_CONVOLUTION_KEY], config.network.in_channels)
    weights = weights | {INPUT_CONVOLUTION_KEY: first}
    with torch.device("meta"):
        expected = list_module_shapes(UNet(config.network))
    with explain_file(source):
        raise_mismatches(compare_shapes(expected, weights, "unet"))
    return weights


def _count_channels(unet: Weights) -> int:
    """Input channels of a UNet's weights; 0 where there is no UNet."""
    first = unet.get(INPUT_CONVOLUTION_KEY)
    return first.shape[1] if first is not None and first.ndim == 4 else 0


def _load_part(source: Path, name: str, module: nn.Module, weights: Weights) -> bool:
    """A component of StableVITON's own. Without one in the source, False is returned."""
    if not weights:
        return False
    try:
        module.load_state_dict(_to_float(weights))
    except RuntimeError as error:
        raise CheckpointError(
            f"{source}'s {name.replace('_', ' ')} is incomplete or has another size: {error}"
        ) from error
    return True


def _select_tower(
    config: ModelConfig, source: Path, weights: Weights, file: Path | None
) -> Weights:
    """A CLIP vision tower's weights, of the source or of a file of its own, without TOWER before
    their names. CheckpointError where there is none, or one of another size."""
    if file is not None:
        weights = read_weights(file)[0]
    shapes = list_clip_shapes(config.clip)
    tower = {key: value for key, value in weights.items() if key in shapes}
    if not tower:
        raise CheckpointError(
            f"{file or source} has no CLIP vision tower ({TOWER}*). Name one with --clip: "
            "CLIP ViT-L/14's model.safetensors."
        )
    with explain_file(file or source):
        raise_mismatches(compare_shapes(shapes, tower, "clip"))
        check_finite(tower)
    return {key.removeprefix(TOWER): value for key, value in tower.items()}


def _load_image_projector(model: TryOnModel, weights: Weights) -> bool:
    """Paint-by-Example's image projector. Without one the projector's transformer becomes the
    identity, and False is returned."""
    projector = model.image_projector
    expected = projector.state_dict()
    if weights.keys() >= expected.keys():
        projector.load_state_dict(_to_float({key: weights[key] for key in expected}))
        return True
    blocks: Any = projector.mapper.resblocks
    for block in blocks:
        zero_layer(block.attn.c_proj)
        zero_layer(block.mlp.c_proj)
    return False


def _to_float(weights: Weights) -> Weights:
    return {key: value.float() for key, value in weights.items()}


def zero_initial_layers(network: TryOnNetwork) -> None:
    """Zero the zero convolutions and the spatial encoder's convolution of the garment latent
    (paper, section 3.2)."""
    convolutions: Any = network.zero_cross_attention.warp_zero_convs
    for layer in (*convolutions, network.encoder.cond_first_block[0]):
        zero_layer(layer)


@torch.no_grad()
def copy_encoder(network: TryOnNetwork) -> None:
    """Copy the UNet's encoder into the spatial encoder, except for layers that only that has."""
    weights = network.encoder.state_dict()
    copied = {key: value for key, value in network.unet.state_dict().items() if key in weights}
    network.encoder.load_state_dict(weights | copied)


def zero_layer(layer: Any) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
