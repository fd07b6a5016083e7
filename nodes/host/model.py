"""The 13-channel unet as a model of ComfyUI: its own UNet under a BaseModel that concatenates
the try-on latents, which travel as conditioning."""

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.supported_models_base
import comfy.utils
import torch
from torch import Tensor

from ...stableviton_core.model.config import ModelConfig, NetworkConfig

# Conditioning keys: scaled latents B x 4 x h x w, and the keep-mask B x 1 x h x w.
AGNOSTIC = "stableviton_agnostic"
KEEP = "stableviton_keep"
DENSEPOSE = "stableviton_densepose"
GARMENT = "stableviton_garment"
CONCATENATED = (AGNOSTIC, KEEP, DENSEPOSE)  # the order of the unet's channels after the noise


class StableVITONModelConfig(comfy.supported_models_base.BASE):
    """ComfyUI's description of the unet."""

    unet_extra_config = {}
    memory_usage_factor = 1.2

    def __init__(self, config: ModelConfig):
        super().__init__(unet_config(config.network))
        self.latent_format = comfy.latent_formats.SD15(config.autoencoder.latent_scale)
        self.network = config.network


def unet_config(config: NetworkConfig) -> dict:
    """Arguments of ComfyUI's UNetModel."""
    levels = range(config.levels)
    depth = [int(config.attends(level)) for level in levels for _ in range(config.num_res_blocks)]
    depth_output = [
        int(config.attends(level)) for level in levels for _ in range(config.num_res_blocks + 1)
    ]
    return {
        "image_size": 32,
        "in_channels": config.in_channels,
        "out_channels": config.latent_channels,
        "model_channels": config.model_channels,
        "channel_mult": list(config.channel_mult),
        "num_res_blocks": [config.num_res_blocks] * config.levels,
        "transformer_depth": depth,
        "transformer_depth_middle": 1,
        "transformer_depth_output": depth_output,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": False,
        "context_dim": config.context_dim,
        "num_heads": config.num_heads,
        "num_head_channels": -1,
        "adm_in_channels": None,
        "legacy": False,
    }


class StableVITONModel(comfy.model_base.BaseModel):
    """Reads the try-on latents from the conditioning."""

    def __init__(self, model_config: StableVITONModelConfig, device: torch.device | None = None):
        super().__init__(model_config, comfy.model_base.ModelType.EPS, device=device)
        # The garment's maps take as much room again as the unet's own activations.
        self.memory_usage_factor_conds = (GARMENT,)

    def concat_cond(self, **kwargs) -> Tensor:
        return torch.cat([_at_size_of(kwargs, key) for key in CONCATENATED], dim=1)

    def extra_conds(self, **kwargs) -> dict:
        _check(kwargs)
        out = super().extra_conds(**kwargs)
        out[GARMENT] = comfy.conds.CONDRegular(_at_size_of(kwargs, GARMENT))
        return out

    def extra_conds_shapes(self, **kwargs) -> dict[str, list[int]]:
        garment = kwargs.get(GARMENT)
        return {} if garment is None else {GARMENT: list(garment.shape)}


def _check(conditioning: dict) -> None:
    missing = [key for key in (*CONCATENATED, GARMENT) if conditioning.get(key) is None]
    if missing:
        raise ValueError(
            "This model is a StableVITON unet and its conditioning carries no try-on latents "
            f"({', '.join(missing)}). Connect the positive and the negative output of "
            "StableVITONConditioning to the sampler."
        )
    if conditioning.get("area") is not None:
        raise ValueError(
            "StableVITON's conditioning has an area set. A garment is attended to from the whole "
            "picture and cannot be limited to an area; remove the node that sets it, or use a mask."
        )


def _at_size_of(conditioning: dict, key: str) -> Tensor:
    """A conditioning latent at the sampled latent's size, as the host resizes concat latents."""
    latent, noise = conditioning[key], conditioning["noise"]
    if latent.shape[2:] != noise.shape[2:]:
        latent = comfy.utils.common_upscale(
            latent, noise.shape[-1], noise.shape[-2], "bilinear", "center"
        )
    return latent.to(conditioning["device"])
