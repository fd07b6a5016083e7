"""The settings of the command `prepare`, and their record beside the data set. Imports nothing
heavy, for the command line's help."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import StableVITONError
from ..files import hash_file, replace_atomically
from ..images import MULTIPLE

Split = Literal["train", "test"]
Category = Literal["upper", "lower", "dresses"]
Device = Literal["auto", "cpu", "cuda", "mps"]
SETTINGS = "prepare.json"
VERSION = 1  # of the way in which images are made; a higher one refuses older folders


@dataclass(frozen=True)
class PrepareConfig:
    """Settings of a data set made of photos.

    output: folder of the VITON-HD layout. persons, garments: folders of photos. category: of the
    garments. densepose, segformer, openpose: network files (see `large_networks`) in place of the
    shipped, approximate ways; device: of these. workers: processes.
    """

    output: Path
    persons: Path
    garments: Path
    split: Split = "test"
    height: int = 512
    width: int = 384
    category: Category = "upper"
    densepose: Path | None = None
    segformer: Path | None = None
    openpose: Path | None = None
    device: Device = "auto"
    workers: int = 1

    @property
    def folder(self) -> Path:
        return self.output / self.split

    @property
    def pair_file(self) -> Path:
        return self.output / f"{self.split}_pairs.txt"

    def list_problems(self) -> list[str]:
        """Everything that is wrong with these settings by themselves, one a line."""
        problems = []
        for name in ("height", "width"):
            value = getattr(self, name)
            if value <= 0 or value % MULTIPLE:
                problems.append(f"--{name} must be a positive multiple of {MULTIPLE}, got {value}")
        if self.workers < 1:
            problems.append(f"--workers must be at least 1, got {self.workers}")
        for name in ("densepose", "openpose"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                problems.append(f"--{name}: {path} is not a file")
        if self.segformer is not None and not self.segformer.is_dir():
            problems.append(f"--segformer: {self.segformer} is not a folder")
        return problems


def record_settings(config: PrepareConfig) -> None:
    """Write the settings that images depend on into the output's SETTINGS, or compare them with
    those of an earlier run.

    StableVITONError where they differ, and where the output holds images of another origin: two
    kinds of images in one data set would not show.
    """
    file = config.output / SETTINGS
    settings = _collect_settings(config)
    if file.is_file():
        _require_same_settings(file, settings)
        return
    if (config.folder / "image").is_dir() or (config.folder / "cloth").is_dir():
        raise StableVITONError(
            f"{config.folder} holds images that `prepare` did not make ({file} is not there). "
            "Choose a new folder."
        )
    config.output.mkdir(parents=True, exist_ok=True)
    with replace_atomically(file) as partial:
        partial.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _require_same_settings(file: Path, settings: dict[str, Any]) -> None:
    try:
        earlier = json.loads(file.read_text(encoding="utf-8"))
        changed = [
            f"{name} was {_describe(earlier.get(name))}, is {_describe(value)}"
            for name, value in settings.items()
            if _identify(earlier.get(name)) != _identify(value)
        ]
    except (ValueError, AttributeError) as error:
        raise StableVITONError(
            f"{file} cannot be read ({error}). Choose a new folder, for it says how the images in "
            "this one were made."
        ) from error
    if changed:
        raise StableVITONError(
            f"{file.parent} holds images made with other settings: {'; '.join(changed)}. Choose a "
            "new folder, or take the settings of the first run."
        )


def _collect_settings(config: PrepareConfig) -> dict[str, Any]:
    return {
        "version": VERSION,
        "height": config.height,
        "width": config.width,
        "category": config.category,
        "densepose": _collect_network(config.densepose),
        "segformer": _collect_network(config.segformer),
        "openpose": _collect_network(config.openpose),
    }


def _collect_network(path: Path | None) -> dict[str, Any] | None:
    """Name of a network's file or folder, and the hashes of its files by name."""
    if path is None:
        return None
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
    return {"name": path.name, "sha256": {file.name: hash_file(file) for file in files}}


def _identify(value: Any) -> Any:
    """A setting without what may change: the name of a network and of its single file."""
    if not isinstance(value, dict):
        return value
    hashes = value["sha256"]
    return list(hashes.values()) if len(hashes) == 1 else hashes


def _describe(value: Any) -> str:
    if isinstance(value, dict):
        digest = next(iter(value["sha256"].values()), "")
        return f"{value['name']} ({digest[:8]})"
    return "not given" if value is None else str(value)
