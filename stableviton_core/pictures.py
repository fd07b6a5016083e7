"""Folders of pictures."""

from pathlib import Path

from .errors import UserError

PICTURE_TYPES = (".jpg", ".png", ".jpeg", ".webp")


class FolderError(UserError):
    """A folder without pictures, or none at all."""


def pictures_in(folder: Path) -> list[Path]:
    """Sorted by name. FolderError where there are none."""
    if not folder.is_dir():
        raise FolderError(f"{folder} is not a folder.")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_TYPES)
    if not found:
        raise FolderError(f"{folder} has no pictures ({', '.join(PICTURE_TYPES)}).")
    return found
