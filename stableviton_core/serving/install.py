"""Puts the pack where a ComfyUI looks for custom nodes."""

import shutil
from pathlib import Path

PACK = Path(__file__).resolve().parents[2]
FOLDER_NAME = "ComfyUI-StableVITON"
_PARTS = (
    "__init__.py",
    "nodes",
    "stableviton_core",
    "web",
    "locales",
    "workflows",
    "demo",
    "requirements.txt",
    "pyproject.toml",
    "LICENSE",
    "NOTICE",
)


def install_pack(base: Path, pack: Path = PACK) -> Path:
    """Brings `base`/custom_nodes/ComfyUI-StableVITON up to date with the pack: what is new or
    of another size or time is copied, what the pack no longer has is deleted."""
    target = base / "custom_nodes" / FOLDER_NAME
    files = {path.relative_to(pack) for part in _PARTS for path in _files(pack / part)}
    for name in files:
        _refresh(pack / name, target / name)
    for path in _files(target):
        if path.relative_to(target) not in files:
            path.unlink()
    return target


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts]


def _refresh(source: Path, copy: Path) -> None:
    wanted = source.stat()
    if copy.is_file():
        present = copy.stat()
        if (present.st_size, present.st_mtime_ns) == (wanted.st_size, wanted.st_mtime_ns):
            return
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, copy)
