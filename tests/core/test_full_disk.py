"""Every kind of file on a disk that is really full (a small tmpfs): the error says so, nothing
half-written is left, and what was there before stays as it was."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from helpers.batches import run_jobs
from helpers.checkpoints import write_checkpoint
from helpers.fake_server import run_fake_server
from helpers.training import tiny_config
from stableviton_core.errors import StableVITONError
from stableviton_core.images import write_image
from stableviton_core.model.convert import convert
from stableviton_core.serving.batch.contact_sheet import write_contact_sheet
from stableviton_core.serving.batch.jobs import combine_folders
from stableviton_core.serving.batch.manifest import MANIFEST
from stableviton_core.synthetic.write_dataset import write_dataset
from stableviton_core.training import checkpointing
from stableviton_core.training.config import VaeConfig
from stableviton_core.training.finetune_vae import finetune_vae
from stableviton_core.training.trainer import train

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")


@pytest.fixture
def disk(tmp_path) -> Iterator[Callable[[int], Path]]:
    """Mounts an empty disk of a number of bytes, in pages of 4096."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def mount(size: int) -> Path:
        options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        done = subprocess.run(["mount", *options], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for each in mounted:
        subprocess.run(["umount", "--lazy", str(each)], check=True)


def list_files(folder: Path) -> dict[str, bytes]:
    return {
        f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*.*") if f.is_file()
    }


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp"])
def test_an_image(disk, ending):
    folder = disk(64 << 10)
    file = folder / f"image{ending}"
    write_image(file, np.zeros((8, 8, 3), np.uint8))
    before = list_files(folder)
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    with pytest.raises(OSError, match="No space left"):
        write_image(file, noise)
    assert list_files(folder) == before


def test_a_converted_checkpoint(disk, tmp_path):
    source = write_checkpoint(tmp_path / "in.safetensors")
    folder = disk(source.stat().st_size // 4)
    with pytest.raises((StableVITONError, OSError), match="No space left|os error 28"):
        convert(source, folder / "out.safetensors", "fp32")
    assert list_files(folder) == {}


@pytest.mark.parametrize("command", ["convert", "init", "make-synthetic"])
def test_a_command_says_so_in_a_line(disk, inputs, command):
    folder = disk(200 << 10)
    source = str(inputs / "tiny.safetensors")
    arguments = {
        "convert": [source, str(folder / "x.safetensors")],
        "init": [source, str(folder / "x.safetensors")],
        "make-synthetic": [str(folder / "data"), "--count", "8"],
    }[command]
    line = [sys.executable, "-m", "stableviton_core", command, *arguments]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search("error: .*(No space left|os error 28)", done.stderr), done.stderr
    assert not list(folder.rglob("*.partial")) and not list(folder.glob("x.*"))


@pytest.mark.parametrize("pages", range(1, 9))
def test_a_batch(disk, tmp_path, pages):
    """Full in the middle of a result, of a line of the manifest, or of the contact sheet."""
    for name in ("persons/p", *(f"garments/g{index}" for index in range(4))):
        file = tmp_path / f"{name}.png"
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (12, 16), "red").save(file)
    jobs = combine_folders(tmp_path / "persons", tmp_path / "garments", {}, seed=0)
    folder = disk(pages * 4096)

    def run(output: Path) -> dict[str, Path]:
        with run_fake_server() as server:
            return run_jobs(jobs, [server.url], output).results

    try:
        results = run(folder)
        write_contact_sheet(jobs, results, folder)
    except (StableVITONError, OSError) as error:
        assert "No space left" in str(error)
    else:
        assert pages > 5, "the disk was not full"
    written = {name for name in list_files(folder) if name.endswith(".png")}
    assert all(Image.open(folder / name).load() for name in written)
    assert not list(folder.glob("*.partial"))
    subprocess.run(["mount", "-o", "remount,size=1m", str(folder)], check=True)
    assert len(run(folder)) == 4, "with room it goes on"
    lines = (folder / MANIFEST).read_text().splitlines()
    assert len(lines) >= 4


@pytest.mark.parametrize("tenths", [5, 12, 18, 25, 31, 44])
def test_a_checkpoint_of_a_training(disk, inputs, tmp_path, tenths):
    """Full in the middle of the weights, the trained parameters, the EMA, the optimizer's state."""
    size = (inputs / "tiny.safetensors").stat().st_size
    output = disk(size * tenths // 10)
    config = tiny_config(
        inputs, output, checkpointing_steps=1, checkpoints_total_limit=9, use_ema=True
    )
    config = replace(config, cache_dir=tmp_path / "cache")
    with pytest.raises(StableVITONError, match="could not be written|cannot be written") as caught:
        train(config)
    kept = checkpointing.list_checkpoints(output)
    for folder in kept:
        assert load_file(folder / checkpointing.WEIGHTS) and not checkpointing.list_damage(folder)
        assert folder != kept[-1] or str(folder) in str(caught.value)
    assert not list(output.glob(f"*{checkpointing.PARTIAL}"))


@pytest.mark.parametrize("kilobytes", [4, 12, 24])
def test_cached_latents(disk, inputs, tmp_path, kilobytes):
    cache = disk(kilobytes << 10)
    config = tiny_config(inputs, tmp_path / "run", cache_latents=True, max_train_steps=1)
    config = replace(config, cache_dir=cache)
    with pytest.raises(StableVITONError, match="No space left|os error 28"):
        train(config)
    subprocess.run(["mount", "-o", "remount,size=9m", str(cache)], check=True)
    assert train(config).is_dir(), "what is there is whole"


def test_a_fine_tuned_vae(disk, inputs):
    folder = disk(16 << 10)
    config = VaeConfig(
        data=inputs / "data", init=inputs / "tiny.safetensors", output=folder / "vae.safetensors",
        height=64, width=48, max_train_steps=1, lpips_weight=0.0,
    )  # fmt: skip
    with pytest.raises(StableVITONError, match="vae.safetensors could not be written"):
        finetune_vae(config)
    assert list_files(folder) == {}


def test_a_synthetic_data_set(disk):
    folder = disk(32 << 10)
    with pytest.raises((StableVITONError, OSError), match="No space left"):
        write_dataset(folder / "data", 8, 2, 1, 64, seed=0)
    assert all(Image.open(file).load() for file in folder.rglob("*.png"))
    assert not list(folder.rglob("*.partial"))
