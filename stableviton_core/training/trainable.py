"""Which parameters are trained, chosen by their names in the checkpoint."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from ..errors import StableVITONError
from ..model.checkpoint import full_key
from .model import TOWER, TryOnModel

MODULES = {
    "network.unet.": "unet",
    "network.zero_cross_attention.": "zero_cross_attention",
    "network.encoder.": "encoder",
    "clip.": "clip",
    "image_projector.": "image_projector",
}
INPUT_CONVOLUTION = "model.diffusion_model.input_blocks.0.*"


def checkpoint_name(name: str) -> tuple[str, str]:
    """A parameter's part and its name in the checkpoint, from its name in `TryOnModel`."""
    for prefix, part in MODULES.items():
        if name.startswith(prefix):
            short = name.removeprefix(prefix)
            return part, full_key(part, (TOWER if part == "clip" else "") + short)
    raise KeyError(name)


def choose_trainable(
    model: TryOnModel, patterns: Sequence[str], frozen: Sequence[str] = ()
) -> dict[str, tuple[int, int]]:
    """Set requires_grad by patterns with * and ?; `frozen` wins. Returns of each part how many
    parameters are trained, of how many. StableVITONError where a pattern fits no name."""
    used: set[str] = set()
    counts: dict[str, tuple[int, int]] = {}
    for name, parameter in model.named_parameters():
        part, key = checkpoint_name(name)
        chosen = {p for p in patterns if fnmatchcase(key, p)}
        excluded = {p for p in frozen if fnmatchcase(key, p)}
        used |= chosen | excluded
        parameter.requires_grad_(bool(chosen) and not excluded)
        trained, total = counts.get(part, (0, 0))
        size = parameter.numel()
        counts[part] = (trained + size * parameter.requires_grad, total + size)
    unused = [p for p in (*patterns, *frozen) if p not in used]
    if unused:
        raise StableVITONError(
            f"no parameter has a name like {', '.join(map(repr, unused))}. Names are those of the "
            "checkpoint, such as 'control_model.*' or 'proj_out.*'."
        )
    return counts


def described(counts: dict[str, tuple[int, int]]) -> str:
    lines = [f"{part:>10}: {own:>13,} of {total:>13,}" for part, (own, total) in counts.items()]
    own, total = (sum(column) for column in zip(*counts.values(), strict=True))
    return "\n".join(["trained parameters", *lines, f"{'all':>10}: {own:>13,} of {total:>13,}"])
