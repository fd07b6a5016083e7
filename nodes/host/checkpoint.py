"""A checkpoint file into ComfyUI's parts."""

import json
import pickle
import struct
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import comfy.clip_vision
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy.clip_model import CLIPVisionModelProjection
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.model_patcher import ModelPatcher
from safetensors import SafetensorError

from ...stableviton_core.errors import CheckpointError
from ...stableviton_core.model.checkpoint import (
    Weights,
    check_kind,
    config_from_metadata,
    list_mismatches,
    list_network_mismatches,
    raise_mismatches,
    split,
)
from ...stableviton_core.model.config import AutoencoderConfig, ClipConfig, ModelConfig
from .model import StableVITONModel, StableVITONModelConfig
from .network import StableVITON, build_image_projector, build_network

WEIGHT_DTYPES = {
    "default": None,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
}

NOT_A_CHECKPOINT = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    SafetensorError,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
)


@dataclass(frozen=True)
class Checkpoint:
    """A file's weights by part (see `checkpoint.split`), and what they make up."""

    parts: dict[str, Weights]
    config: ModelConfig


def read(path: Path) -> Checkpoint:
    """Read and check a file. CheckpointError names the file, the finding and the remedy; no code
    in the file runs."""
    try:
        weights, metadata = read_file(path)
        check_kind(weights)
        checkpoint = Checkpoint(split(weights), config_from_metadata(metadata))
        raise_mismatches(_list_mismatches(checkpoint))
    except CheckpointError as error:
        raise CheckpointError(f"{path.name} is not a StableVITON checkpoint: {error}") from error
    return checkpoint


def read_file(path: Path) -> tuple[Weights, dict[str, str] | None]:
    """A file's tensors and metadata. CheckpointError where it cannot be read."""
    try:
        weights, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
        tensors = {key: value for key, value in weights.items() if isinstance(value, torch.Tensor)}
    except NOT_A_CHECKPOINT as error:
        reason = (str(error).splitlines() or ["empty file"])[0]
        raise CheckpointError(
            f"it cannot be read as weights ({type(error).__name__}: {reason}). It is truncated, "
            "holds something else, or wants to run code, which is never done. Download it again, "
            "or save its weights as .safetensors."
        ) from error
    return tensors, metadata


def _list_mismatches(checkpoint: Checkpoint) -> list[str]:
    """What does not fit the network that the file's configuration describes."""
    parts, config = checkpoint.parts, checkpoint.config
    with torch.device("meta"):
        clip = CLIPVisionModelProjection(clip_config(config.clip), torch.float32, None, torch.nn)
        autoencoder = AutoencoderKL(**autoencoder_params(config.autoencoder))
    return [
        *list_network_mismatches(parts, config),
        *list_mismatches("clip", clip, parts["clip"]),
        *list_mismatches("autoencoder", autoencoder, parts["autoencoder"]),
    ]


def load(
    path: Path, weight_dtype: str
) -> tuple[ModelPatcher, StableVITON, comfy.clip_vision.ClipVisionModel, comfy.sd.VAE]:
    """All of a checkpoint. weight_dtype: one of WEIGHT_DTYPES; "default" lets the host decide."""
    checkpoint = read(path)
    unet = build_unet(checkpoint, weight_dtype)
    network = load_adapter(checkpoint, weight_dtype)
    if hasattr(unet, "cached_patcher_init"):
        unet.cached_patcher_init = (reload_unet, (path, weight_dtype))
        network.cached_patcher_init = (reload_adapter, (path, weight_dtype))
    stableviton = StableVITON(network, load_image_projector(checkpoint), checkpoint.config)
    clip_vision = build_clip_vision(checkpoint, weight_dtype)
    return unet, stableviton, clip_vision, build_vae(checkpoint)


def reload_unet(path: Path, weight_dtype: str, disable_dynamic: bool = False) -> ModelPatcher:
    """The unet again, for a host that needs it on another device."""
    return build_unet(read(path), weight_dtype, disable_dynamic)


def reload_adapter(path: Path, weight_dtype: str, disable_dynamic: bool = False) -> ModelPatcher:
    return load_adapter(read(path), weight_dtype, disable_dynamic)


def _unet_dtype(weights: Weights, weight_dtype: str, supported: list[torch.dtype]) -> torch.dtype:
    chosen = WEIGHT_DTYPES[weight_dtype]
    if chosen is not None:
        return chosen
    return comfy.model_management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(weights),
        supported_dtypes=supported,
        weight_dtype=comfy.utils.weight_dtype(weights),
    )


def build_unet(
    checkpoint: Checkpoint, weight_dtype: str, disable_dynamic: bool = False
) -> ModelPatcher:
    model_config = StableVITONModelConfig(checkpoint.config)
    weights, supported = checkpoint.parts["unet"], model_config.supported_inference_dtypes
    device = comfy.model_management.get_torch_device()
    dtype = _unet_dtype(weights, weight_dtype, supported)
    manual_cast = comfy.model_management.unet_manual_cast(dtype, device, supported)
    model_config.set_inference_dtype(dtype, manual_cast)
    offload_device = comfy.model_management.unet_offload_device()
    model = StableVITONModel(model_config, device=offload_device)
    patcher_class = ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = patcher_class(model, load_device=device, offload_device=offload_device)
    model.load_model_weights(dict(weights), assign=patcher.is_dynamic())
    return patcher


def load_adapter(
    checkpoint: Checkpoint, weight_dtype: str, disable_dynamic: bool = False
) -> ModelPatcher:
    parts = checkpoint.parts
    supported = StableVITONModelConfig.supported_inference_dtypes
    dtype = _unet_dtype(parts["unet"], weight_dtype, supported)
    patcher = build_network(checkpoint.config.network, dtype, disable_dynamic)
    assign = patcher.is_dynamic()
    patcher.model.encoder.load_state_dict(parts["encoder"], strict=True, assign=assign)
    patcher.model.zero_cross_attention.load_state_dict(
        parts["zero_cross_attention"], strict=True, assign=assign
    )
    return patcher


def load_image_projector(checkpoint: Checkpoint) -> ModelPatcher:
    weights = checkpoint.parts["image_projector"]
    patcher = build_image_projector(checkpoint.config, comfy.utils.weight_dtype(weights))
    patcher.model.load_state_dict(weights, strict=True, assign=patcher.is_dynamic())
    return patcher


def build_clip_vision(
    checkpoint: Checkpoint, weight_dtype: str
) -> comfy.clip_vision.ClipVisionModel:
    """The tower through a JSON file: older hosts take its description only as a path.

    The host picks its type of weights, but fp32 is kept where it is asked for.
    """
    with tempfile.TemporaryDirectory(dir=_temp_directory()) as folder:
        description = Path(folder) / "clip_vision.json"
        description.write_text(json.dumps(clip_config(checkpoint.config.clip)))
        clip_vision = comfy.clip_vision.ClipVisionModel(str(description))
    if weight_dtype == "fp32":
        clip_vision.dtype = torch.float32
        clip_vision.model = CLIPVisionModelProjection(
            clip_vision.config,
            torch.float32,
            clip_vision.patcher.offload_device,
            comfy.ops.manual_cast,
        ).eval()
        clip_vision.patcher = comfy.model_patcher.CoreModelPatcher(
            clip_vision.model, clip_vision.load_device, clip_vision.patcher.offload_device
        )
    clip_vision.load_sd(checkpoint.parts["clip"])
    return clip_vision


def _temp_directory() -> Path:
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def clip_config(config: ClipConfig) -> dict:
    """A CLIP tower as transformers' configuration files describe it, without a projection."""
    return {
        "model_type": "clip_vision_model",
        **asdict(config),
        "num_channels": 3,
        "layer_norm_eps": 1e-5,
    }


def build_vae(checkpoint: Checkpoint) -> comfy.sd.VAE:
    params = autoencoder_params(checkpoint.config.autoencoder)
    return comfy.sd.VAE(sd=checkpoint.parts["autoencoder"], config={"params": params})


def autoencoder_params(config: AutoencoderConfig) -> dict:
    """Arguments of ComfyUI's AutoencoderKL."""
    return {
        "embed_dim": config.latent_channels,
        "ddconfig": {
            "double_z": True,
            "z_channels": config.latent_channels,
            "resolution": 256,
            "in_channels": 3,
            "out_ch": 3,
            "ch": config.model_channels,
            "ch_mult": list(config.channel_mult),
            "num_res_blocks": config.num_res_blocks,
            "attn_resolutions": [],
            "dropout": 0.0,
        },
    }
