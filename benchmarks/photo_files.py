"""The photos that measurements use: those of the installed packages skimage and
comfyui_workflow_templates_media_image (generated people), and of this repository."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OWN = tuple(ROOT / "tests/golden/person" / name for name in ("grace_hopper.jpg", "astronaut.jpg"))


def list_photos() -> Iterator[Path]:
    for package, folder in (
        ("skimage", "data"),
        ("comfyui_workflow_templates_media_image", "templates"),
    ):
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        found = Path(spec.submodule_search_locations[0], folder)
        yield from sorted(p for p in found.glob("*") if p.suffix in (".png", ".jpg", ".webp"))
    yield from OWN
