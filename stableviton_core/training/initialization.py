"""A start for training from Paint-by-Example or Stable Diffusion 1.5 (paper, section 4.1)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..model.checkpoint import LICENSE_KEY, Weights, join, read_weights, split
from ..model.config import ModelConfig, NetworkConfig
from ..model.zero_cross_attention import TryOnNetwork
from .checkpointing import save_weights
from .model import TOWER, TryOnModel
from .vae import loaded_autoencoder, to_ldm

ENTRY = "input_blocks.0.0.weight"
SOURCE_LICENSE = "CreativeML OpenRAIL-M"  # of Stable Diffusion 1.5 and Paint-by-Example
KINDS = {4: "a Stable Diffusion 1.5", 9: "a Paint-by-Example or inpainting"}


def widened(entry: Tensor, channels: int) -> Tensor:
    """The first convolution for more input channels, which come last and start at zero."""
    missing = channels - entry.shape[1]
    return torch.cat([entry, entry.new_zeros(entry.shape[0], missing, *entry.shape[2:])], dim=1)


def prepare_start(
    source: Path,
    output: Path,
    clip: Path | None = None,
    dtype: str = "fp16",
    config: ModelConfig | None = None,
    seed: int = 0,
    license: str = SOURCE_LICENSE,
) -> list[str]:
    """Write a StableVITON checkpoint whose try-on parts have no influence yet: unet from the
    source with zero weights for the new input channels, spatial encoder copied from it, zero
    convolutions zero. Returns what is new and has to be trained.

    clip: a CLIP vision tower's .safetensors, needed where the source has none (Stable Diffusion's
    is a text tower). config: sizes, if not the released ones. license: the source's, for the
    metadata, where it names none itself. CheckpointError where a file is
    something else.
    """
    torch.manual_seed(seed)
    weights, metadata = read_weights(source)
    parts = split(weights)
    model = TryOnModel(config or ModelConfig())
    _load_unet(model, source, parts["unet"], model.config.network)
    autoencoder = loaded_autoencoder(model.config.autoencoder, parts["autoencoder"], source)
    fresh = ["zero cross-attention (model.diffusion_model.warp_*)"]
    _load_clip(model, source, parts["clip"], clip)
    fresh += _load_condition(model, parts)
    copy_encoder(model.network)
    zero_init(model.network)
    output.parent.mkdir(parents=True, exist_ok=True)
    weights = join(model.parts() | {"autoencoder": to_ldm(autoencoder)})
    kept = {LICENSE_KEY: metadata.get(LICENSE_KEY, license)}
    save_weights(output, weights, model.config, dtype, kept)
    return fresh


def _load_unet(model: TryOnModel, source: Path, unet: Weights, config: NetworkConfig) -> None:
    entry = unet.get(ENTRY)
    if entry is None or entry.ndim != 4 or entry.shape[1] not in KINDS:
        found = "no UNet" if entry is None else f"a UNet of {entry.shape[1]} input channels"
        raise CheckpointError(
            f"{source} has {found}. Expected {' or '.join(KINDS.values())} checkpoint "
            f"({' or '.join(map(str, KINDS))} channels)."
        )
    wide = {key: value.float() for key, value in unet.items()}
    wide[ENTRY] = widened(wide[ENTRY], config.in_channels)
    try:
        model.network.unet.load_state_dict(wide)
    except RuntimeError as error:
        raise CheckpointError(f"{source}'s UNet has another size: {error}") from error


def _load_clip(model: TryOnModel, source: Path, own: Weights, file: Path | None) -> None:
    tower = {k: v for k, v in own.items() if k.startswith(TOWER)}
    if file is not None:
        tower = {k: v for k, v in read_weights(file)[0].items() if k.startswith(TOWER)}
    if not tower:
        raise CheckpointError(
            f"{file or source} has no CLIP vision tower ({TOWER}*). Name one with --clip: "
            "CLIP ViT-L/14's model.safetensors."
        )
    expected = model.clip.state_dict()
    short = {key.removeprefix(TOWER): value.float() for key, value in tower.items()}
    try:
        model.clip.load_state_dict({k: v for k, v in short.items() if k in expected})
    except RuntimeError as error:
        raise CheckpointError(f"{file or source}'s CLIP has another size: {error}") from error


def _load_condition(model: TryOnModel, parts: dict[str, Weights]) -> list[str]:
    """Paint-by-Example's condition head; else one whose transformer passes everything on."""
    head = {key: value.float() for key, value in parts["image_projector"].items()}
    expected = model.image_projector.state_dict()
    if head.keys() >= expected.keys():
        model.image_projector.load_state_dict({key: head[key] for key in expected})
        return []
    blocks: Any = model.image_projector.mapper.resblocks
    for block in blocks:
        zero(block.attn.c_proj)
        zero(block.mlp.c_proj)
    return ["condition head (proj_out.*, learnable_vector; cond_stage_model.mapper.* passes on)"]


def zero_init(network: TryOnNetwork) -> None:
    """Zero the layers that start without influence: zero convolutions and the garment's entry
    (paper, section 3.2)."""
    for layer in (
        *network.zero_cross_attention.warp_zero_convs,
        network.encoder.cond_first_block[0],
    ):
        zero(layer)


@torch.no_grad()
def copy_encoder(network: TryOnNetwork) -> None:
    """The spatial encoder starts as a copy of the unet's encoder."""
    own = network.encoder.state_dict()
    shared = {k: v for k, v in network.unet.state_dict().items() if k in own}
    network.encoder.load_state_dict(own | shared)


def zero(layer: Any) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
