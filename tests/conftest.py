"""The method is imported by path: the project's root stays off `sys.path`, where its folder
`nodes` would hide ComfyUI's module of that name."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def _import_by_path(name: str, folder: Path) -> None:
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


_import_by_path("stableviton_core", ROOT / "stableviton_core")
_import_by_path("helpers", ROOT / "tests" / "helpers")
