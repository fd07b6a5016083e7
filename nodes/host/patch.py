"""Zero cross-attention on a MODEL: two wrappers and an output block patch.

The adapter is looked up in the patcher that is sampling (a clone for another device has its own),
and a call's garment features travel in its `transformer_options`: the patch itself keeps no state.
"""

from dataclasses import dataclass
from functools import partial

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch import Tensor

from ...stableviton_core.errors import StableVITONError
from .adapter import StableVITON
from .model import GARMENT, StableVITONModel, check_model
from .reuse import encode_or_reuse, is_skipped

KEY = "stableviton"


def patch_model(
    model: ModelPatcher, stableviton: StableVITON, strength: float, start: float, end: float
) -> ModelPatcher:
    """A clone of the model with zero cross-attention between start and end (0..1 of sampling).

    StableVITONError where the model is not the UNet of a checkpoint of the same size.
    """
    check_model(model)
    _check_fit(model, stableviton)
    to_sigma = model.get_model_object("model_sampling").percent_to_sigma
    whole = start <= 0 and end >= 1
    patched = model.clone()
    patch = GarmentPatch(
        key=f"{KEY}.{sum(key.startswith(KEY) for key in patched.additional_models)}",
        strength=strength,
        sigma_range=None if whole else (float(to_sigma(start)), float(to_sigma(end))),
    )
    patched.set_additional_models(patch.key, [stableviton.adapter])
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, patch.key, patch.find_adapter)
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, patch.key, patch.encode_garment)
    patched.set_model_output_block_patch(patch.attend_to_garment)
    return patched


def _check_fit(model: ModelPatcher, stableviton: StableVITON) -> None:
    unet, adapter = model.model.model_config.network, stableviton.config.network
    if unet != adapter:
        raise StableVITONError(
            f"The model and the stableviton input come from checkpoints of different size ({unet} "
            f"and {adapter}). Connect both from the same Load StableVITON."
        )
    device = stableviton.adapter.load_device
    if model.load_device != device:
        raise StableVITONError(
            f"The model is on {model.load_device}, spatial encoder and zero cross-attention are on "
            f"{device}. Choose the device after Apply StableVITON."
        )
    adapter = stableviton.adapter
    others = [
        other
        for key, patchers in model.additional_models.items()
        for other in patchers
        if key.startswith(KEY) and other.is_clone(adapter)
    ]
    if any(other.patches_uuid != adapter.patches_uuid for other in others):
        raise StableVITONError(
            "The model already has the networks of this checkpoint with other LoRAs, and their "
            "weights are in memory only once. Connect the same stableviton to every "
            "Apply StableVITON of a model."
        )


@dataclass(frozen=True)
class GarmentPatch:
    """Settings of one application. key: of its adapter among the model's additional models, and of
    its entry in `transformer_options`. sigma_range: the first and last sigma; None: at all."""

    key: str
    strength: float
    sigma_range: tuple[float, float] | None

    def find_adapter(
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
        """Wraps BaseModel.apply_model: puts the sampling patcher's adapter into the options."""
        base_model: StableVITONModel = executor.class_obj
        (adapter,) = base_model.current_patcher.get_additional_models_with_key(self.key)
        options = transformer_options | {self.key: {"adapter": adapter.model}}
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
        """Wraps the UNet: runs the spatial encoder once on the same x, B x 13 x h x w."""
        if self._applies_at(transformer_options["sigmas"]):
            call = transformer_options[self.key]
            encode = partial(call["adapter"].encoder, x, timesteps, context, kwargs[GARMENT])
            features = encode_or_reuse(transformer_options, self.key, timesteps, encode)
            call = call | {"garment_features": features}
            transformer_options = transformer_options | {self.key: call}
        return executor(x, timesteps, context, y, control, transformer_options, **kwargs)

    def _applies_at(self, sigmas: Tensor) -> bool:
        """Reads a value, and so waits for the device, only where the range is limited."""
        if self.sigma_range is None:
            return True
        first, last = self.sigma_range
        return last <= sigmas.max().item() <= first

    def attend_to_garment(
        self, h: Tensor, skip: Tensor, transformer_options: dict
    ) -> tuple[Tensor, Tensor]:
        """Output block patch: adds zero cross-attention before the skip is concatenated."""
        call = transformer_options.get(self.key, {})
        _, block = transformer_options["block"]
        if "garment_features" in call and not is_skipped(transformer_options, block):
            attend = call["adapter"].zero_cross_attention
            h = attend(block, h, call["garment_features"], self.strength)
        return h, skip
