"""Model folders: ComfyUI's, the pack's demo folder, and comfyui_controlnet_aux's; and the demo's
images in ComfyUI's input folder."""

import logging
import shutil
from pathlib import Path

import folder_paths

from ...stableviton_core.errors import StableVITONError
from ...stableviton_core.files import replace_atomically

FOLDER = "stableviton"
EXTENSIONS = {".ckpt", ".pt", ".pth", ".safetensors", ".sft"}
DEMO = Path(__file__).resolve().parents[2] / "demo"
DEMO_PREFIX = "stableviton_"  # of the demo's images, so that they are no other file's

# Person networks; a SegFormer is a folder with a config.json.
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
# Others of a folder's files are not listed.
FILE_PATTERNS = {OPENPOSE: "body_pose_model.*", SEGFORMER: "config.json"}


def register_folders() -> None:
    """Make and register the `stableviton` model folder; register the pack's demo folder and those
    of the person networks. Paths that a user configured stay."""
    models = Path(folder_paths.models_dir)
    (models / FOLDER).mkdir(parents=True, exist_ok=True)
    _register(FOLDER, EXTENSIONS, models / FOLDER, DEMO)
    packs = [Path(path) for path in folder_paths.get_folder_paths("custom_nodes")]
    for folder, extensions in PERSON_FOLDERS.items():
        downloads = [pack / CONTROLNET_AUX[folder] for pack in packs if folder in CONTROLNET_AUX]
        _register(folder, extensions, models / folder, *filter(Path.is_dir, downloads))


def _register(folder: str, extensions: set[str], *paths: Path) -> None:
    for path in paths:
        folder_paths.add_model_folder_path(folder, str(path))
    registered, known = folder_paths.folder_names_and_paths[folder]
    folder_paths.folder_names_and_paths[folder] = (registered, set(known) | extensions)


def copy_demo_images() -> None:
    """Put the demo's images, which the graphs name, into ComfyUI's input folder. Nothing that is
    there is replaced.

    They lie in the folder itself: the web interface takes an image of a subfolder for missing.
    """
    folder = Path(folder_paths.get_input_directory())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for image in DEMO.iterdir():
            target = folder / f"{DEMO_PREFIX}{image.name}"
            if image.suffix in (".png", ".jpg") and not target.exists():
                with replace_atomically(target) as partial:
                    shutil.copyfile(image, partial)
    except OSError as error:
        logging.warning("StableVITON: the demo's images could not be written: %s", error)


def list_checkpoints() -> list[str]:
    """Files of the `stableviton` folder, then those of `checkpoints`."""
    names = [folder_paths.get_filename_list(folder) for folder in (FOLDER, "checkpoints")]
    return list(dict.fromkeys([*names[0], *names[1]]))


def find_checkpoint(name: str) -> Path:
    """The path of a listed checkpoint. StableVITONError for any other name."""
    for folder in (FOLDER, "checkpoints"):
        if name in folder_paths.get_filename_list(folder):
            return Path(folder_paths.get_full_path_or_raise(folder, name))
    raise StableVITONError(
        f"No checkpoint {name!r} in ComfyUI's models/{FOLDER} or models/checkpoints. Put the file "
        f"into models/{FOLDER} and refresh; {len(list_checkpoints())} are there now."
    )


def list_person_models(folder: str) -> dict[str, str]:
    """Names of the networks in a person network's folder -> ComfyUI's names of their files. A
    SegFormer has the name of the folder that holds it and its config.json."""
    models = {}
    for file in folder_paths.get_filename_list(folder):
        path = Path(file)
        if path.match(FILE_PATTERNS.get(folder, "*")):
            models[(path.parent if folder == SEGFORMER else path).as_posix()] = file
    return models


def find_person_model(folder: str, name: str) -> Path:
    """The path of a person network's file, or of a SegFormer's folder, by its listed name.
    StableVITONError for any other."""
    files = list_person_models(folder)
    if name not in files:
        raise StableVITONError(
            f"No {name!r} in ComfyUI's models/{folder}. Put it there and refresh; "
            f"{len(files)} are there now."
        )
    path = Path(folder_paths.get_full_path_or_raise(folder, files[name]))
    return path.parent if folder == SEGFORMER else path
