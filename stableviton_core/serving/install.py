"""Installs the pack into a ComfyUI's folder of custom nodes."""

import shutil
from pathlib import Path

from ..errors import StableVITONError

PACK = Path(__file__).resolve().parents[2]
FOLDER_NAME = "ComfyUI-StableVITON"
_FOLDERS = ("nodes", "stableviton_core", "web", "locales", "workflows", "subgraphs", "demo")
_FILES = ("__init__.py", "requirements.txt", "pyproject.toml", "LICENSE", "NOTICE")


def install_pack(base: Path, pack: Path = PACK) -> Path:
    """Synchronise `base`/custom_nodes/ComfyUI-StableVITON with the pack: files that are new or
    differ in size or time are copied, files that the pack no longer has are deleted.

    StableVITONError where that folder is a link, has one in it, or is a checkout: somebody else's
    files would be overwritten and deleted.
    """
    target = base / "custom_nodes" / FOLDER_NAME
    _require_own_folder(target)
    contents = [path for name in (*_FOLDERS, *_FILES) for path in _list_files(pack / name)]
    files = {path.relative_to(pack) for path in contents}
    for name in files:
        _copy_if_changed(pack / name, target / name)
    for path in _list_files(target):
        if path.relative_to(target) not in files:
            path.unlink()
    return target


def _require_own_folder(target: Path) -> None:
    link = next((path for path in (target, *target.rglob("*")) if _is_link(path)), None)
    if link is not None:
        reason = f"{link} is a link to {link.resolve()}"
    elif (target / ".git").exists():
        reason = f"{target} is a checkout of its own"
    else:
        return
    raise StableVITONError(
        f"{reason}; a copy of the pack would overwrite and delete what is there. Remove it from "
        "that custom_nodes, or name another folder."
    )


def _is_link(path: Path) -> bool:
    """Whether a path is a link, or one of Windows' junctions."""
    return path.is_symlink() or path.resolve() != path.parent.resolve() / path.name


def _list_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts]


def _copy_if_changed(source: Path, copy: Path) -> None:
    if copy.is_file():
        old, new = copy.stat(), source.stat()
        if (old.st_size, old.st_mtime_ns) == (new.st_size, new.st_mtime_ns):
            return
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, copy)
