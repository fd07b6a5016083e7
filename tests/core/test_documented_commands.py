"""The commands of docs/evaluation.md, docs/tryon.md and docs/training.md run as they are written.

Blocks of Markdown with the language `bash` are commands to run, in the order of the page, in one
folder; those with `text` are examples that need other files or hours.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import structural_similarity

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 600  # for one block, on a busy machine
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.M | re.S)
pytestmark = pytest.mark.skipif(
    os.name == "nt" or not shutil.which("bash"), reason="needs a POSIX shell"
)


def read_blocks(page: str) -> list[str]:
    return BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))


def run_blocks(page: str, folder: Path) -> str:
    """Run a page's commands in a folder that looks like the package's; their output."""
    for name in ("demo", "stableviton_core", "workflows"):
        (folder / name).symlink_to(ROOT / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    output = ""
    for block in read_blocks(page):
        done = subprocess.run(
            ["bash", "-ec", block],
            cwd=folder,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
        output += done.stdout
    return output


@pytest.mark.parametrize("page", ["evaluation.md", "tryon.md", "training.md"])
def test_every_block_says_whether_it_runs(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    fences = re.findall(r"^```(.*)$", text, re.M)
    assert len(fences) % 2 == 0 and "" not in fences[::2]
    assert "bash" in fences[::2]


def test_the_evaluation_page(tmp_path):
    """From a data set to a table: the SSIM is that of the files."""
    table = run_blocks("evaluation.md", tmp_path)
    results = sorted((tmp_path / "results" / "pair").glob("*.jpg"))
    values = []
    for result in results:
        person = result.stem[: len("00000_00")]
        assert result.stem == f"{person}_{person}"
        pair = []
        for file in (result, tmp_path / "drawn" / "test" / "image" / f"{person}.png"):
            with Image.open(file) as image:
                assert image.size == (96, 128)
                pair.append(np.asarray(image.convert("L")))
        values.append(
            structural_similarity(
                *pair, data_range=255, gaussian_weights=True, use_sample_covariance=False
            )
        )
    assert len(values) == 2
    written = json.loads((tmp_path / "paired.json").read_text())
    scores = {score["metric"]: score["value"] for score in written["scores"]}
    assert scores["SSIM"] == pytest.approx(np.mean(values), abs=2e-3), (
        "Pillow rounds grey otherwise"
    )
    assert f"| SSIM | {scores['SSIM']:.4f} | hr-viton, paired, 2 images, 96 x 128" in table
    assert (written["num_images"], written["num_paired"], written["paired"]) == (2, 2, True)


def test_the_tryon_page(tmp_path):
    run_blocks("tryon.md", tmp_path)


def test_the_training_page(tmp_path):
    run_blocks("training.md", tmp_path)
