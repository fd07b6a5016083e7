"""The modules that loading the pack imports into a process of the host."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"controlnet_aux", "transformers", "torchvision", "diffusers", "accelerate", "mediapipe"}
EXPECTED = {"cv2"}

SCRIPT = """
import asyncio, builtins, json, os, sys
sys.path.insert(0, os.environ["COMFYUI_PATH"])
from comfy.cli_args import args
args.cpu, args.base_directory = True, sys.argv[2]
import comfy_api.latest, comfy_config.config_parser, nodes
def packages():
    return {name.split(".")[0] for name in sys.modules if os.sep not in name}
before, imported, original_import = packages(), set(), builtins.__import__
def record(name, globals=None, *rest):
    file = (globals or {}).get("__file__") or ""
    relative = len(rest) > 2 and rest[2] > 0
    if file.startswith(sys.argv[1] + os.sep) and not relative:
        imported.add(name.split(".")[0])
    return original_import(name, globals, *rest)
builtins.__import__ = record
loaded = asyncio.run(nodes.load_custom_node(sys.argv[1]))
new = sorted(packages() - before)
print(json.dumps({"loaded": loaded, "imported": sorted(imported), "new": new}))
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> dict:
    """imported: by import statements of the pack; new: packages that the host had not loaded."""
    folder = tmp_path_factory.mktemp("comfyui")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(ROOT), str(folder)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_pack_loads_alone(report):
    assert report["loaded"]
    assert {"torch", "cv2", "numpy"} <= set(report["imported"]), "the imports were not recorded"
    assert HEAVY.isdisjoint(report["imported"]), report["imported"]
    assert HEAVY.isdisjoint(report["new"]), report["new"]


def test_loading_the_pack_imports_no_other_package(report):
    assert set(report["new"]) - set(sys.stdlib_module_names) - EXPECTED == set()
