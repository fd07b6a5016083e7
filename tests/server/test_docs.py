"""The commands of docs/batch.md and docs/api.md, with another address and fewer steps."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from stableviton_core.serving.install import PACK

ADDRESS = "http://127.0.0.1:8188"
pytestmark = pytest.mark.skipif(
    os.name == "nt" or not shutil.which("curl"), reason="needs a POSIX shell and curl"
)


def read_code_blocks(name: str, kind: str = "") -> list[str]:
    text = (PACK / "docs" / name).read_text(encoding="utf-8")
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.M | re.S)


@pytest.fixture
def shell(server, tmp_path):
    """A function that runs a shell command in a copy of the pack's folder; its output."""
    for name in ("workflows", "demo", "stableviton_core"):
        (tmp_path / name).symlink_to(PACK / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def run(command: str) -> str:
        command = command.replace(ADDRESS, server.url)
        done = subprocess.run(
            ["bash", "-ec", command],
            cwd=tmp_path,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    run.folder = tmp_path
    return run


def test_the_batch_page(shell):
    setup, plain, overridden, pairs, best = read_code_blocks("batch.md")[:5]
    shell(setup)
    steps = ' --set "PLMS Schedule.steps=1"'
    shell(plain.rstrip() + steps)
    results = shell.folder / "shop" / "results"
    with Image.open(results / "anna+shirt.png") as result:
        assert result.size == (768, 1024)
    checkpoint = overridden.replace("VITONHD", "stableviton-demo").replace("=25", "=1")
    assert checkpoint != overridden
    shell(checkpoint + "\n")
    (shell.folder / "shop" / "pairs.csv").write_text(pairs)
    folders = "--persons shop/persons --garments shop/garments"
    assert folders in plain
    shell(plain.rstrip().replace(folders, "--pairs shop/pairs.csv") + steps)
    names = [path.name for path in results.glob("anna+shirt*.png")]
    assert len(names) == 3, "two seeds, distinguished by a hash, and the first result"
    shell(best.replace("--best-of 4", "--best-of 2").rstrip() + steps)
    manifest = (shell.folder / "drawn" / "results" / "manifest.jsonl").read_text()
    entry = json.loads(manifest)
    assert set(entry["scores"]) == {"0", "1"} and entry["score"] == max(entry["scores"].values())
    assert entry["report"].startswith(f"{entry['score']:.3f} (confidence ")


def test_the_api_page(shell):
    commands = [block for block in read_code_blocks("api.md") if not block.startswith("{")]
    first, second, queue, history, view, stop = commands
    assert json.loads(shell(first))["name"] == "photo.jpg"
    shell(second)
    queued = json.loads(shell(queue.replace("= 10", "= 1")))
    assert queued["node_errors"] == {}
    prompt_id = queued["prompt_id"]
    record: dict = {}
    deadline = time.monotonic() + 120
    while not record and time.monotonic() < deadline:
        record = json.loads(shell(history.replace("PROMPT_ID", prompt_id)))
        time.sleep(0.5)
    (image,) = record[prompt_id]["outputs"]["4"]["images"]
    assert record[prompt_id]["status"]["status_str"] == "success"
    shell(view.replace("tryon_00001_.png", image["filename"]))
    with Image.open(shell.folder / "result.png") as result:
        assert result.size == (768, 1024)
    shell(stop.replace("PROMPT_ID", prompt_id))


def test_the_python_of_the_api_page(shell):
    (code,) = read_code_blocks("api.md", "python")
    shorter = code.replace('"steps", 10', '"steps", 1')
    assert shorter != code
    shell(f"cat > client.py <<'EOF'\n{shorter}EOF\npython client.py")
    with Image.open(shell.folder / "result.png") as result:
        assert result.size == (768, 1024)
