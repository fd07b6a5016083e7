"""A StableVITON LoRA on a STABLEVITON value: patches of the host on clones of its patchers."""

from dataclasses import replace
from pathlib import Path

import comfy.lora
import folder_paths
from comfy.model_patcher import ModelPatcher

from ...stableviton_core.errors import StableVITONError
from ...stableviton_core.model.checkpoint import full_key
from ...stableviton_core.model.lora import Lora, check_base, parse_lora
from .adapter import StableVITON
from .load_checkpoint import read_weights

FOLDER = "loras"


def list_loras() -> list[str]:
    return folder_paths.get_filename_list(FOLDER)


def find_lora(name: str) -> Path:
    """The path of a listed file. StableVITONError for any other name."""
    if name not in list_loras():
        raise StableVITONError(
            f"No {name!r} in ComfyUI's models/{FOLDER}. Put the lora.safetensors of a training run "
            f"there and refresh; {len(list_loras())} files are there now."
        )
    return Path(folder_paths.get_full_path_or_raise(FOLDER, name))


def apply_lora(stableviton: StableVITON, path: Path, strength: float) -> StableVITON:
    """A copy with the updates of a file, `strength` times, added to those that it has.
    CheckpointError where the file is no StableVITON LoRA or of another size."""
    lora = parse_lora(path.name, *read_weights(path))
    check_base(lora, path.name, stableviton.config)
    projector = stableviton.image_projector
    modules = {name: f"{name}." for name in ("encoder", "zero_cross_attention")}
    return replace(
        stableviton,
        adapter=_patch(stableviton.adapter, lora, strength, modules),
        image_projector=_patch(projector, lora, strength, {"image_projector": ""}),
    )


def _patch(
    patcher: ModelPatcher, lora: Lora, strength: float, prefixes: dict[str, str]
) -> ModelPatcher:
    """A clone with the updates of some components. prefixes: of each one's weights in the module.
    The patcher itself where the file has no update of them: it stays loaded."""
    keys = {
        full_key(component, key.removeprefix(prefix)): key
        for component, prefix in prefixes.items()
        for key in patcher.model_state_dict()
        if key.startswith(prefix)
    }
    weights = {name: f"{name}.weight" for name in lora.names}
    targets = {name: keys[weight] for name, weight in weights.items() if weight in keys}
    if not targets:
        return patcher
    patched = patcher.clone()
    patched.add_patches(comfy.lora.load_lora(lora.weights, targets, log_missing=False), strength)
    return patched
