"""Where checkpoints are: ComfyUI's `stableviton` and `checkpoints` folders, and the pack's own."""

from pathlib import Path

import folder_paths

FOLDER = "stableviton"
EXTENSIONS = {".ckpt", ".pt", ".pth", ".safetensors", ".sft"}
DEMO = Path(__file__).resolve().parents[2] / "demo"


def register() -> None:
    """Make and add the `stableviton` model folder, and add the pack's demo folder; configured
    paths stay."""
    models = Path(folder_paths.models_dir) / FOLDER
    models.mkdir(parents=True, exist_ok=True)
    folder_paths.add_model_folder_path(FOLDER, str(models))
    folder_paths.add_model_folder_path(FOLDER, str(DEMO))
    paths, extensions = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, set(extensions) | EXTENSIONS)


def checkpoint_names() -> list[str]:
    """Files of the `stableviton` folder, then those of `checkpoints`."""
    own = folder_paths.get_filename_list(FOLDER)
    return own + [n for n in folder_paths.get_filename_list("checkpoints") if n not in own]


def checkpoint_path(name: str) -> Path:
    """FileNotFoundError for a name that is in neither folder (or outside them)."""
    for folder in (FOLDER, "checkpoints"):
        if name in folder_paths.get_filename_list(folder):
            return Path(folder_paths.get_full_path_or_raise(folder, name))
    raise FileNotFoundError(
        f"No checkpoint {name!r} in ComfyUI's models/{FOLDER} or models/checkpoints. Put the file "
        f"into models/{FOLDER} and refresh; {len(checkpoint_names())} are there now."
    )
