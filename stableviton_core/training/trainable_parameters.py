"""Which parameters are trained, chosen by their names in the checkpoint."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from ..errors import StableVITONError
from ..model.checkpoint import full_key
from ..model.expected_shapes import TOWER
from ..model.tryon_model import TryOnModel

MODULES = {
    "network.unet.": "unet",
    "network.zero_cross_attention.": "zero_cross_attention",
    "network.encoder.": "encoder",
    "clip.": "clip",
    "image_projector.": "image_projector",
}
INPUT_CONVOLUTION = "model.diffusion_model.input_blocks.0.*"


def checkpoint_name(name: str) -> tuple[str, str]:
    """A parameter's component and its name in the checkpoint, from its name in `TryOnModel`."""
    for prefix, component in MODULES.items():
        if name.startswith(prefix):
            key = name.removeprefix(prefix)
            return component, full_key(component, (TOWER if component == "clip" else "") + key)
    raise KeyError(name)


def choose_trainable(
    model: TryOnModel, patterns: Sequence[str], frozen: Sequence[str] = ()
) -> dict[str, tuple[int, int]]:
    """Set requires_grad by patterns with * and ? -> for each component how many parameters are
    trained, of how many. `frozen` patterns win, and what the spatial encoder never runs is always
    frozen. StableVITONError where a pattern fits no name."""
    never_run = {id(parameter) for parameter in model.network.encoder.unused_parameters()}
    matched: set[str] = set()
    counts: dict[str, tuple[int, int]] = {}
    for name, parameter in model.named_parameters():
        component, key = checkpoint_name(name)
        included = {p for p in patterns if fnmatchcase(key, p)}
        excluded = {p for p in frozen if fnmatchcase(key, p)}
        matched |= included | excluded
        trainable = bool(included) and not excluded and id(parameter) not in never_run
        parameter.requires_grad_(trainable)
        trained, total = counts.get(component, (0, 0))
        size = parameter.numel()
        counts[component] = (trained + size * trainable, total + size)
    unmatched = [p for p in (*patterns, *frozen) if p not in matched]
    if unmatched:
        raise StableVITONError(
            f"no parameter has a name like {', '.join(map(repr, unmatched))}. Names are those of "
            "the checkpoint, such as 'control_model.*' or 'proj_out.*'."
        )
    return counts


def format_counts(counts: dict[str, tuple[int, int]]) -> str:
    """The result of `choose_trainable` as a table."""
    trained, total = (sum(column) for column in zip(*counts.values(), strict=True))
    rows = [*counts.items(), ("all", (trained, total))]
    return "\n".join(
        ["trained parameters", *(f"{name:>20}: {t:>13,} of {n:>13,}" for name, (t, n) in rows)]
    )
