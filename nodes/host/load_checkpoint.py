"""A checkpoint file as ComfyUI's MODEL, STABLEVITON, CLIP_VISION and VAE."""

import json
import tempfile
from dataclasses import asdict
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
from comfy.model_patcher import ModelPatcher

from ...stableviton_core.model import weight_reader
from ...stableviton_core.model.checkpoint import Checkpoint, parse_checkpoint
from ...stableviton_core.model.config import AutoencoderConfig, ClipConfig
from ...stableviton_core.model.weight_reader import Metadata, Weights
from .adapter import StableVITON, load_adapter, load_image_projector
from .attention import override_attention
from .checks import watch_sampling
from .dtypes import choose_compute_dtype, choose_weight_dtype
from .model import StableVITONModel, StableVITONModelConfig


def load_checkpoint(
    path: Path, weight_dtype: str
) -> tuple[ModelPatcher, StableVITON, comfy.clip_vision.ClipVisionModel, comfy.sd.VAE]:
    """weight_dtype: one of WEIGHT_DTYPES; "default" lets the host decide. CheckpointError where the
    file is not a StableVITON checkpoint."""
    checkpoint = read_checkpoint(path)
    unet = watch_sampling(load_unet(checkpoint, weight_dtype))
    adapter = load_adapter(checkpoint, choose_weight_dtype(checkpoint, weight_dtype))
    if hasattr(unet, "cached_patcher_init"):
        unet.cached_patcher_init = (reload_unet, (path, weight_dtype))
        adapter.cached_patcher_init = (reload_adapter, (path, weight_dtype))
    stableviton = StableVITON(adapter, load_image_projector(checkpoint), checkpoint.config)
    return unet, stableviton, load_clip_vision(checkpoint, weight_dtype), load_vae(checkpoint)


def reload_unet(path: Path, weight_dtype: str, disable_dynamic: bool = False) -> ModelPatcher:
    """The UNet once more, for a host that needs it on another device."""
    return load_unet(read_checkpoint(path), weight_dtype, disable_dynamic)


def reload_adapter(path: Path, weight_dtype: str, disable_dynamic: bool = False) -> ModelPatcher:
    checkpoint = read_checkpoint(path)
    return load_adapter(checkpoint, choose_weight_dtype(checkpoint, weight_dtype), disable_dynamic)


def read_checkpoint(path: Path) -> Checkpoint:
    return parse_checkpoint(path.name, *read_weights(path))


def read_weights(path: Path) -> tuple[Weights, Metadata]:
    """Tensors and metadata of a file, as `weight_reader.read_weights`; a .safetensors is read by
    the host, which may load it in its own way."""
    return weight_reader.read_weights(path, _read_safetensors, path.name)


def _read_safetensors(path: Path) -> tuple[Weights, Metadata | None]:
    if path.suffix.lower() not in (".safetensors", ".sft"):  # the host goes by the ending
        return weight_reader.read_safetensors(path)
    return comfy.utils.load_torch_file(str(path), return_metadata=True)


def load_unet(
    checkpoint: Checkpoint, weight_dtype: str, disable_dynamic: bool = False
) -> ModelPatcher:
    model_config = StableVITONModelConfig(checkpoint.config)
    device = comfy.model_management.get_torch_device()
    dtype = choose_weight_dtype(checkpoint, weight_dtype)
    model_config.set_inference_dtype(dtype, choose_compute_dtype(dtype, device))
    offload_device = comfy.model_management.unet_offload_device()
    model = StableVITONModel(model_config, device=offload_device)
    patcher_class = ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = patcher_class(model, load_device=device, offload_device=offload_device)
    model.load_model_weights(dict(checkpoint.components["unet"]), assign=patcher.is_dynamic())
    override_attention(patcher)
    return patcher


def load_clip_vision(
    checkpoint: Checkpoint, weight_dtype: str
) -> comfy.clip_vision.ClipVisionModel:
    """The CLIP tower in the host's own type of weights; fp32 only where it is asked for.

    It is described in a JSON file because ComfyUI 0.20 and older take nothing else.
    """
    temp_folder = Path(folder_paths.get_temp_directory())
    temp_folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=temp_folder) as folder:
        description = Path(folder) / "clip_vision.json"
        description.write_text(json.dumps(make_clip_dict(checkpoint.config.clip)))
        clip_vision = comfy.clip_vision.ClipVisionModel(str(description))
    if weight_dtype == "fp32":
        offload_device = clip_vision.patcher.offload_device
        clip_vision.dtype = torch.float32
        clip_vision.model = CLIPVisionModelProjection(
            clip_vision.config, torch.float32, offload_device, comfy.ops.manual_cast
        ).eval()
        clip_vision.patcher = comfy.model_patcher.CoreModelPatcher(
            clip_vision.model, clip_vision.load_device, offload_device
        )
    clip_vision.load_sd(checkpoint.components["clip"])
    return clip_vision


def load_vae(checkpoint: Checkpoint) -> comfy.sd.VAE:
    params = make_autoencoder_dict(checkpoint.config.autoencoder)
    return comfy.sd.VAE(sd=checkpoint.components["autoencoder"], config={"params": params})


def make_clip_dict(config: ClipConfig) -> dict:
    """A CLIP tower as in transformers' configuration files, without a projection."""
    fixed = {"model_type": "clip_vision_model", "num_channels": 3, "layer_norm_eps": 1e-5}
    return asdict(config) | fixed


def make_autoencoder_dict(config: AutoencoderConfig) -> dict:
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
