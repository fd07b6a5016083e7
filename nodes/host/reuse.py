"""Features that one pass of the networks leaves for the next ones, within a run of sampling.

What the passes of a run keep travels in `transformer_options` and is gone when the run ends. The
reuse of deep features follows DeepCache (Ma et al., CVPR 2024).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from comfy.model_patcher import ModelPatcher, create_model_options_clone
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch import Tensor

from ...stableviton_core.model.config import NetworkConfig
from ...stableviton_core.schedule import TIMESTEPS
from .model import check_model
from .shallow_unet import keep_deep_features, limit_control, run_with_blocks, select_full_resolution

KEY = "stableviton_reuse"
FIRST_BLOCK = "stableviton_first_block"  # the first output block that a pass runs


def reuse_features(model: ModelPatcher, garment_interval: float, deep_every: int) -> ModelPatcher:
    """A clone of the model that is sampled with approximations.

    garment_interval: the fraction of the noise schedule (0..1) over which a pass's garment features
    serve later passes; 0: no pass. deep_every: the passes that a feature map below full resolution
    serves, its own included. StableVITONError where the model is not a StableVITON UNet.
    """
    check_model(model)
    reuse = FeatureReuse(garment_interval, deep_every, model.model.model_config.network)
    patched = model.clone()
    for kind, wrapper in (
        (WrappersMP.OUTER_SAMPLE, reuse.sample),
        (WrappersMP.DIFFUSION_MODEL, reuse.run_unet),
    ):
        patched.remove_wrappers_with_key(kind, KEY)
        patched.add_wrapper_with_key(kind, KEY, wrapper)
    return patched


@dataclass
class KeptFeatures:
    """What a run keeps. garment: timestep and features by patch and conditions. deep: feature map
    and the passes that it has served, by conditions."""

    garment_interval: float
    garment: dict[tuple, tuple[float, list[Tensor]]] = field(default_factory=dict)
    deep: dict[tuple, tuple[Tensor, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class FeatureReuse:
    """Settings as those of `reuse_features`."""

    garment_interval: float
    deep_every: int
    network: NetworkConfig

    def sample(self, executor: WrapperExecutor, *args, **kwargs) -> Tensor:
        """Wraps a run of sampling, whose passes find new KeptFeatures in their options."""
        guider = executor.class_obj
        options = guider.model_options
        guider.model_options = create_model_options_clone(options)
        guider.model_options["transformer_options"][KEY] = KeptFeatures(self.garment_interval)
        try:
            return executor(*args, **kwargs)
        finally:
            guider.model_options = options

    def run_unet(
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
        """Wraps the UNet: runs it, or only its full resolution on a kept feature map."""
        kept: KeptFeatures | None = transformer_options.get(KEY)
        if kept is None or self.deep_every == 1:
            return executor(x, timesteps, context, y, control, transformer_options, **kwargs)
        unet, key = executor.class_obj, tuple(transformer_options["uuids"])
        features, served = kept.deep.get(key, (None, self.deep_every))
        if features is not None and served < self.deep_every:
            kept.deep[key] = features, served + 1
            blocks = select_full_resolution(unet, self.network, features)
            control = limit_control(control, self.network)
            first = self.network.first_full_resolution_block
            transformer_options = transformer_options | {FIRST_BLOCK: first}
        else:

            def keep(features: Tensor) -> None:
                kept.deep[key] = features, 1

            blocks = keep_deep_features(unet, self.network, keep)
        inputs = (x, timesteps, context, y, control, transformer_options)
        return run_with_blocks(executor, blocks, *inputs, **kwargs)


def encode_or_reuse(
    transformer_options: dict, patch: str, timesteps: Tensor, encode: Callable[[], list[Tensor]]
) -> list[Tensor]:
    """What `encode` returns, or a patch's garment features of an earlier pass that is near enough.

    Reads a timestep, and so waits for the device, only where features are to be reused.
    """
    kept: KeptFeatures | None = transformer_options.get(KEY)
    if kept is None or kept.garment_interval == 0:
        return encode()
    key = (patch, *transformer_options["uuids"])
    timestep = timesteps.max().item()
    if key in kept.garment:
        earlier, features = kept.garment[key]
        if abs(earlier - timestep) < kept.garment_interval * TIMESTEPS:
            return features
    features = encode()
    kept.garment[key] = timestep, features
    return features


def is_skipped(transformer_options: dict, output_block: int) -> bool:
    """Whether this pass does not run the output block."""
    return output_block < transformer_options.get(FIRST_BLOCK, 0)
