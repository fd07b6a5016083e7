"""Where models are: ComfyUI's folders, the pack's own, and comfyui_controlnet_aux's."""

from pathlib import Path

import folder_paths

FOLDER = "stableviton"
EXTENSIONS = {".ckpt", ".pt", ".pth", ".safetensors", ".sft"}
DEMO = Path(__file__).resolve().parents[2] / "demo"

# Folders of networks that find out about the person. A SegFormer is a folder with a config.json.
DENSEPOSE, OPENPOSE, SEGFORMER = "densepose", "openpose", "segformer"
PERSON_FOLDERS = {
    DENSEPOSE: {".torchscript"},
    OPENPOSE: {".pth", ".safetensors"},
    SEGFORMER: {".json"},
}
CONTROLNET_AUX = {
    DENSEPOSE: "comfyui_controlnet_aux/ckpts/LayerNorm/DensePose-TorchScript-with-hint-image",
    OPENPOSE: "comfyui_controlnet_aux/ckpts/lllyasviel/Annotators",
}
SEGFORMER_FILE = "config.json"
OPENPOSE_FILE = "body_pose_model"


def register() -> None:
    """Make and add the `stableviton` model folder, and add the pack's demo folder and those of the
    person networks; configured paths stay."""
    models = Path(folder_paths.models_dir)
    (models / FOLDER).mkdir(parents=True, exist_ok=True)
    _add(FOLDER, EXTENSIONS, models / FOLDER, DEMO)
    packs = [Path(path) for path in folder_paths.get_folder_paths("custom_nodes")]
    for folder, extensions in PERSON_FOLDERS.items():
        theirs = [pack / CONTROLNET_AUX[folder] for pack in packs if folder in CONTROLNET_AUX]
        _add(folder, extensions, models / folder, *(path for path in theirs if path.is_dir()))


def _add(folder: str, extensions: set[str], *paths: Path) -> None:
    for path in paths:
        folder_paths.add_model_folder_path(folder, str(path))
    own, known = folder_paths.folder_names_and_paths[folder]
    folder_paths.folder_names_and_paths[folder] = (own, set(known) | extensions)


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


def densepose_names() -> list[str]:
    return folder_paths.get_filename_list(DENSEPOSE)


def openpose_names() -> list[str]:
    names = folder_paths.get_filename_list(OPENPOSE)
    return [name for name in names if Path(name).stem == OPENPOSE_FILE]


def segformer_names() -> list[str]:
    """Folders with a configuration, below the `segformer` folder."""
    names = [Path(name) for name in folder_paths.get_filename_list(SEGFORMER)]
    return [name.parent.as_posix() for name in names if name.name == SEGFORMER_FILE]


def person_model_path(folder: str, name: str) -> Path:
    """A file of a person network's folder, or the folder of a SegFormer. FileNotFoundError where
    it is not there (or outside)."""
    file = f"{name}/{SEGFORMER_FILE}" if folder == SEGFORMER else name
    known = {Path(n).as_posix(): n for n in folder_paths.get_filename_list(folder)}
    if file not in known:
        raise FileNotFoundError(
            f"No {name!r} in ComfyUI's models/{folder}. Put it there and refresh; "
            f"{len(known)} files are there now."
        )
    path = Path(folder_paths.get_full_path_or_raise(folder, known[file]))
    return path.parent if folder == SEGFORMER else path
