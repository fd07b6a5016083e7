"""What installing the pack may do to a host (nothing but add what is missing), and its metadata."""

import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def lines() -> list[str]:
    return (ROOT / "requirements.txt").read_text().split()


def test_names_and_lower_bounds_only():
    for line in lines():
        assert re.fullmatch(r"[A-Za-z0-9_.-]+(\[[a-z]+\])?(>=[0-9.]+)?", line), line


def test_pyproject_names_the_same_and_what_the_command_line_needs():
    pyproject = (ROOT / "pyproject.toml").read_text()
    declared = re.search(r"^dependencies = \[(.*?)\]$", pyproject, re.M | re.S)
    names = re.findall(r'"([^"]+)"', declared[1])
    assert names == [*lines(), "jsonargparse[signatures]>=4.32", "filelock"]


def test_what_the_registry_shows_is_there():
    pyproject = (ROOT / "pyproject.toml").read_text()
    values = dict(re.findall(r'^(\w+) = "(.+)"$', pyproject, re.M))
    assert "comfyui" not in values["name"].lower(), "the registry's rule"
    assert (ROOT / values["Icon"]).is_file() and (ROOT / values["Banner"]).is_file()
    version = values["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["opencv-python-headless", "opencv-contrib-python"])
def test_a_host_with_another_variant_of_cv2_keeps_a_working_one(tmp_path, variant):
    venv.create(tmp_path / "venv", with_pip=True)
    folder = "Scripts" if sys.platform == "win32" else "bin"
    python = tmp_path / "venv" / folder / "python"
    opencv = next(line for line in lines() if line.startswith("opencv"))
    for wanted in (variant, opencv):
        subprocess.run([python, "-m", "pip", "install", "-q", wanted], check=True)
    check = (
        "import cv2, numpy as np; "
        "cv2.applyColorMap(np.zeros((2, 2), np.uint8), cv2.COLORMAP_PARULA); "
        "cv2.distanceTransform(np.ones((4, 4), np.uint8), cv2.DIST_L2, 5); cv2.dnn.readNetFromONNX"
    )
    subprocess.run([python, "-c", check], check=True)
