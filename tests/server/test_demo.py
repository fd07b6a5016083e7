"""The demo, called as `scripts/demo.py` calls it."""

import subprocess
import sys
from pathlib import Path

from PIL import Image

from stableviton_core.serving.install import PACK


def run_demo(comfyui: Path, output: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "stableviton_core.serving.demo"]
    return subprocess.run(
        [*command, "--comfyui", str(comfyui), "--output", str(output), *options],
        cwd=PACK,
        capture_output=True,
        text=True,
    )


def test_it_writes_the_result_and_an_image_grid(comfyui, tmp_path):
    done = run_demo(comfyui, tmp_path / "out.png")
    assert done.returncode == 0, done.stderr
    person = Image.open(PACK / "demo" / "person.png")
    assert Image.open(tmp_path / "out.png").size == person.size
    assert Image.open(tmp_path / "out-sheet.png").width >= 5 * person.width
    assert {path.name for path in tmp_path.iterdir()} == {"out.png", "out-sheet.png"}


def test_a_missing_checkpoint_is_a_readable_error(comfyui, tmp_path):
    done = run_demo(comfyui, tmp_path / "out.png", "--checkpoint", "nowhere.ckpt")
    assert done.returncode == 1
    assert "nowhere.ckpt" in done.stderr and "stableviton-demo.safetensors" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
