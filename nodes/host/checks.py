"""Warnings of what makes a poor result without an error, before it is sampled."""

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from comfy.samplers import CFGGuider
from torch import Tensor

from ...stableviton_core.model.config import ModelConfig, NetworkConfig
from .folders import FOLDER
from .model import UNCONDITIONAL
from .patch import KEY
from .server import show_warnings

CHECKS = "stableviton_checks"
USUAL_CFG = 0.9, 3.0  # made for 1 to 2, with a margin
# Of `measure_flatness`: the test photos have up to 0.6, synthetic samples 0.94 and more
FLAT = 0.75


def watch_sampling(model: ModelPatcher) -> ModelPatcher:
    """The model, with the checks before each of its samplings and of its clones'."""
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, CHECKS, check_sampling)
    return model


def check_sampling(executor: WrapperExecutor, *args, **kwargs) -> Tensor:
    """Wraps the sampling of a guider."""
    show_warnings(list_problems(executor.class_obj))
    return executor(*args, **kwargs)


def list_problems(guider: CFGGuider) -> list[str]:
    """One sentence or two for each: what is seen, what it does, what to change."""
    problems = []
    if not any(key.startswith(KEY) for key in guider.model_patcher.additional_models):
        problems.append(
            "The model has no zero cross-attention, so the result has hardly anything of the "
            "garment. Connect the MODEL output of Apply StableVITON, with a strength above 0."
        )
    if any(UNCONDITIONAL in conditioning for conditioning in guider.conds.get("positive", ())):
        problems.append(
            "The sampler's positive input has the negative output of Encode Try-On. Exchange the "
            "two."
        )
    cfg, (low, high) = getattr(guider, "cfg", None), USUAL_CFG
    if isinstance(cfg, int | float) and not low <= cfg <= high:  # other packs' may be a list
        problems.append(
            f"cfg is {cfg:g}. StableVITON is made for 1 to 2; other values give glaring or "
            "pale colours."
        )
    return problems


def check_checkpoint(config: ModelConfig, person: Tensor) -> None:
    """Warns of photos, B x 3 x H x W in -1..1, with a checkpoint smaller than the released ones,
    such as the demo's."""
    channels, released = config.network.model_channels, NetworkConfig().model_channels
    warnings = []
    if channels < released and measure_flatness(person) < FLAT:
        warnings.append(
            "This checkpoint knows drawn figures only: it is as small as the demo's, and gives "
            "patches of colour on photos. For these put the authors' VITONHD.ckpt into models/"
            f"{FOLDER} and choose it in Load StableVITON."
        )
    show_warnings(warnings)


def measure_flatness(images: Tensor) -> float:
    """The share of pixels of B x 3 x H x W in -1..1 that equal their right neighbour within a grey
    level."""
    steps = images.diff(dim=3).abs().amax(dim=1)
    return (steps < 1.5 / 127.5).float().mean().item()
