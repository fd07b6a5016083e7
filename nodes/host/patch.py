"""Zero cross-attention on a MODEL: two wrappers and an output block patch.

The network is looked up in the patcher that is sampling (a clone for another device has its own),
and this call's garment maps travel in its `transformer_options`: nothing is kept on the patch.
"""

from dataclasses import dataclass

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch import Tensor

from .model import GARMENT, StableVITONModel
from .network import StableVITON

KEY = "stableviton"


def apply(
    model: ModelPatcher, stableviton: StableVITON, strength: float, start: float, end: float
) -> ModelPatcher:
    """A clone of the model with zero cross-attention between start and end (0..1 of sampling).

    ValueError for a model that is no unet for this network.
    """
    _check(model, stableviton)
    sampling = model.get_model_object("model_sampling")
    patched = model.clone()
    patch = GarmentPatch(
        key=f"{KEY}.{sum(key.startswith(KEY) for key in patched.additional_models)}",
        strength=strength,
        sigma_start=float(sampling.percent_to_sigma(start)),
        sigma_end=float(sampling.percent_to_sigma(end)),
    )
    patched.set_additional_models(patch.key, [stableviton.network])
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, patch.key, patch.find_network)
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, patch.key, patch.encode_garment)
    patched.set_model_output_block_patch(patch.attend_to_garment)
    return patched


def _check(model: ModelPatcher, stableviton: StableVITON) -> None:
    if not isinstance(model.model, StableVITONModel):
        raise ValueError(
            f"The model is a {type(model.model).__name__}, not a StableVITON unet. Connect the "
            "MODEL output of StableVITONLoader, with other packs' patches in between if you like."
        )
    unet, own = model.model.model_config.network, stableviton.config.network
    if unet != own:
        raise ValueError(
            f"The model and the stableviton input come from checkpoints of different size ({unet} "
            f"and {own}). Connect both from the same StableVITONLoader."
        )
    if model.load_device != stableviton.network.load_device:
        raise ValueError(
            f"The model is on {model.load_device} and the garment network on "
            f"{stableviton.network.load_device}. Choose the device after StableVITONApply."
        )


@dataclass(frozen=True)
class GarmentPatch:
    """Settings of one application; `key` names its network and its maps."""

    key: str
    strength: float
    sigma_start: float
    sigma_end: float

    def find_network(
        self,
        executor: WrapperExecutor,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None,
        c_crossattn: Tensor | None,
        control: dict | None,
        transformer_options: dict,
        **kwargs,
    ) -> Tensor:
        """Around BaseModel.apply_model: it knows the patcher that is sampling."""
        base_model: StableVITONModel = executor.class_obj
        (network,) = base_model.current_patcher.get_additional_models_with_key(self.key)
        options = transformer_options | {self.key: {"network": network.model}}
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    def encode_garment(
        self,
        executor: WrapperExecutor,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: Tensor | None,
        control: dict | None,
        transformer_options: dict,
        **kwargs,
    ) -> Tensor:
        """Around the UNet: it sees the 13 channels. Runs the spatial encoder once."""
        if self._active(transformer_options):
            call = transformer_options[self.key]
            maps = call["network"].encoder(x, timesteps, context, kwargs[GARMENT])
            transformer_options = transformer_options | {self.key: call | {"maps": maps}}
        return executor(x, timesteps, context, y, control, transformer_options, **kwargs)

    def attend_to_garment(
        self, h: Tensor, skip: Tensor, transformer_options: dict
    ) -> tuple[Tensor, Tensor]:
        call = transformer_options.get(self.key, {})
        if "maps" in call:
            _, block = transformer_options["block"]
            h = call["network"].zero_cross_attention(block, h, call["maps"], self.strength)
        return h, skip

    def _active(self, transformer_options: dict) -> bool:
        sigma = transformer_options["sigmas"].max().item()
        return self.sigma_end <= sigma <= self.sigma_start
