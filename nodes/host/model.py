"""The 13-channel UNet as a model of ComfyUI: the host's UNetModel under a BaseModel that
concatenates the try-on latents, which travel as conditioning."""

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.supported_models_base
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...stableviton_core.errors import StableVITONError
from ...stableviton_core.model.config import CONCATENATED_INPUTS, ModelConfig, NetworkConfig

# Conditioning keys: scaled latents B x 4 x h x w, and the keep-mask B x 1 x h x w.
AGNOSTIC = "stableviton_agnostic"
KEEP = "stableviton_keep"
DENSEPOSE = "stableviton_densepose"
GARMENT = "stableviton_garment"
UNCONDITIONAL = "stableviton_unconditional"  # True in the negative conditioning
CONCATENATED = tuple(f"stableviton_{name}" for name in CONCATENATED_INPUTS)


class StableVITONModelConfig(comfy.supported_models_base.BASE):
    """ComfyUI's description of the UNet."""

    unet_extra_config: dict = {}
    memory_usage_factor = 1.2

    def __init__(self, config: ModelConfig):
        super().__init__(make_unet_dict(config.network))
        self.latent_format = comfy.latent_formats.SD15(config.autoencoder.latent_scale)
        self.network = config.network


def make_unet_dict(config: NetworkConfig) -> dict:
    """Arguments of ComfyUI's UNetModel."""
    depths = [int(config.has_attention(level)) for level in range(config.levels)]
    blocks = config.num_res_blocks
    return {
        "image_size": 32,
        "in_channels": config.in_channels,
        "out_channels": config.latent_channels,
        "model_channels": config.model_channels,
        "channel_mult": list(config.channel_mult),
        "num_res_blocks": [blocks] * config.levels,
        "transformer_depth": [depth for depth in depths for _ in range(blocks)],
        "transformer_depth_middle": 1,
        "transformer_depth_output": [depth for depth in depths for _ in range(blocks + 1)],
        "use_spatial_transformer": True,
        "use_linear_in_transformer": False,
        "context_dim": config.context_dim,
        "num_heads": config.num_heads,
        "num_head_channels": -1,
        "adm_in_channels": None,
        "legacy": False,
    }


class StableVITONModel(comfy.model_base.BaseModel):
    """Takes the try-on latents from the conditioning."""

    def __init__(self, model_config: StableVITONModelConfig, device: torch.device | None = None):
        super().__init__(model_config, comfy.model_base.ModelType.EPS, device=device)
        # The spatial encoder needs about as much memory for activations as the UNet.
        self.memory_usage_factor_conds = (GARMENT,)

    def concat_cond(self, **kwargs) -> Tensor:
        return torch.cat([_resize_to_noise(kwargs, key) for key in CONCATENATED], dim=1)

    def extra_conds(self, **kwargs) -> dict:
        """All on the device: the host would copy the context there in every pass."""
        _check_conditioning(kwargs)
        kwargs["cross_attn"] = kwargs["cross_attn"].to(kwargs["device"])
        out = super().extra_conds(**kwargs)
        out[GARMENT] = comfy.conds.CONDRegular(_resize_to_noise(kwargs, GARMENT))
        return out

    def extra_conds_shapes(self, **kwargs) -> dict[str, list[int]]:
        garment = kwargs.get(GARMENT)
        return {} if garment is None else {GARMENT: list(garment.shape)}


def check_model(model: ModelPatcher) -> None:
    """StableVITONError where the model is not the UNet of a StableVITON checkpoint."""
    if not isinstance(model.model, StableVITONModel):
        raise StableVITONError(
            f"The model is a {type(model.model).__name__}, not a StableVITON UNet. Connect the "
            "MODEL output of Load StableVITON, with other packs' patches in between if you like."
        )


def _check_conditioning(conditioning: dict) -> None:
    missing = [key for key in (*CONCATENATED, GARMENT) if conditioning.get(key) is None]
    if missing:
        raise StableVITONError(
            "This model is a StableVITON UNet and its conditioning carries no try-on latents "
            f"({', '.join(missing)}). Connect the positive and the negative output of "
            "Encode Try-On to the sampler."
        )
    if conditioning.get("area") is not None:
        raise StableVITONError(
            "StableVITON's conditioning has an area set. The whole image attends to the garment, "
            "which cannot be limited to an area; remove the node that sets it, or use a mask."
        )


def _resize_to_noise(conditioning: dict, key: str) -> Tensor:
    """A conditioning latent at the sampled latent's size, as the host resizes concat latents."""
    latent, noise = conditioning[key], conditioning["noise"]
    if latent.shape[2:] != noise.shape[2:]:
        latent = comfy.utils.common_upscale(
            latent, noise.shape[-1], noise.shape[-2], "bilinear", "center"
        )
    return latent.to(conditioning["device"])
