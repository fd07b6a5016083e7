"""Batches on real ComfyUI servers, some of which are killed."""

import asyncio
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from stableviton_core.serving import client
from stableviton_core.serving.batch.manifest import MANIFEST
from stableviton_core.serving.graph import find_class, find_title, load_graph, set_image, set_input
from stableviton_core.serving.install import PACK, install_pack
from stableviton_core.serving.process import serve
from stableviton_core.synthetic.write_dataset import generate_samples

GRAPH = PACK / "workflows" / "api" / "tryon.json"
SETTINGS = ["--set", "PLMS Schedule.steps=4"]
KINDS = {"person": "image", "mask": "mask", "densepose": "densepose", "garment": "garment"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three persons, four garments, and pairs.csv of all pairs, each with another seed."""
    folder = tmp_path_factory.mktemp("images")
    samples = list(generate_samples(3, 4, 128, seed=3))
    rows = []
    for index, variants in enumerate(samples):
        for role in ("person", "mask", "densepose"):
            Image.fromarray(getattr(variants[0], KINDS[role])).save(folder / f"{role}{index}.png")
    for index, sample in enumerate(samples[0]):
        Image.fromarray(sample.garment).save(folder / f"garment{index}.png")
    for person in range(3):
        for garment in range(4):
            row = {role: f"{role}{person}.png" for role in ("person", "mask", "densepose")}
            rows.append(row | {"garment": f"garment{garment}.png", "seed": len(rows)})
    with (folder / "pairs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture(scope="module")
def singles(server, folder) -> dict[str, np.ndarray]:
    """Results of every pair run alone, H x W x 3 uint8, by name."""

    async def run_all() -> dict[str, np.ndarray]:
        results = {}
        async with client.connect(server.url) as session:
            for row in csv.DictReader((folder / "pairs.csv").open()):
                graph = load_graph(GRAPH)
                titles = {
                    "person": "Person",
                    "mask": "Mask",
                    "densepose": "DensePose",
                    "garment": "Garment",
                }
                for role, title in titles.items():
                    image = await client.upload_image(session, folder / row[role])
                    set_image(graph, title, image)
                set_input(graph, find_class(graph, "StableVITONSchedule"), "steps", 4)
                seed = int(row["seed"])
                set_input(graph, find_class(graph, "SamplerCustom"), "noise_seed", seed)
                outputs = await client.run(session, graph)
                file = outputs[find_title(graph, "Result")]["images"][0]
                content = await client.download(session, file)
                name = f"{Path(row['person']).stem}+{Path(row['garment']).stem}"
                results[name] = np.array(Image.open(io.BytesIO(content)))
        return results

    return asyncio.run(run_all())


def make_command(pairs: Path, output: Path, flags: Sequence[str]) -> list[str | Path]:
    command = [sys.executable, "-m", "stableviton_core", "batch", "--graph", GRAPH]
    return [*command, "--pairs", pairs, "--output", output, *SETTINGS, *flags]


def start_batch(folder: Path, output: Path, where: Sequence[str]) -> subprocess.Popen:
    return subprocess.Popen(
        make_command(folder / "pairs.csv", output, where),
        cwd=PACK,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_entries(output: Path) -> list[dict]:
    file = output / MANIFEST
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def wait_for(output: Path, results: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 200
    while len(read_entries(output)) < results and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def check_all(output: Path, singles: dict[str, np.ndarray]) -> None:
    """Every result equals its single run and is once in the manifest; no partial files."""
    for name, expected in singles.items():
        assert np.array_equal(np.array(Image.open(output / f"{name}.png")), expected), name
    done = [entry["pair"] for entry in read_entries(output) if not entry["error"]]
    assert sorted(done) == sorted(singles)
    assert {path.name for path in output.glob("*.p*")} == {f"{name}.png" for name in singles}


def test_a_batch_survives_the_kill_of_a_server_and_of_itself(
    server, comfyui, folder, singles, tmp_path
):
    install_pack(tmp_path / "second")
    output = tmp_path / "out"
    with serve(comfyui, tmp_path / "second", cpu=True) as second:
        where = ["--server", server.url, "--server", second.url]
        process = start_batch(folder, output, where)
        wait_for(output, 3, process)
        os.killpg(second.process.pid, signal.SIGKILL)
        wait_for(output, 6, process)
        process.kill()
        process.communicate()
        before = len(read_entries(output))
        assert 6 <= before < 12, "it was killed in the middle"
        process = start_batch(folder, output, where)
        _, log = process.communicate(timeout=300)
    assert process.returncode == 0, log
    assert "Going on without" in log and "12 of 12 results" in log
    check_all(output, singles)


def test_one_unreadable_image_fails_one_result(server, folder, singles, tmp_path):
    rows = (folder / "pairs.csv").read_text().splitlines()
    broken = folder / "broken.png"
    broken.write_bytes(b"\x89PNG and no more")
    changed = folder / "broken.csv"
    changed.write_text("\n".join([*rows[:12], rows[12].replace("garment3.png", "broken.png")]))
    output = tmp_path / "out"
    process = subprocess.run(
        make_command(changed, output, ["--server", server.url, "--contact-sheet"]),
        cwd=PACK,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    assert "11 of 12 results" in process.stderr and str(broken) in process.stderr
    failed = [entry for entry in read_entries(output) if entry["error"]]
    assert [entry["pair"] for entry in failed] == ["person2+broken"]
    assert (output / "contact-sheet.jpg").is_file()
    for name in list(singles)[:11]:
        assert np.array_equal(np.array(Image.open(output / f"{name}.png")), singles[name])


def test_servers_that_the_batch_starts(comfyui, folder, singles, tmp_path):
    two = folder / "two.csv"
    two.write_text("\n".join((folder / "pairs.csv").read_text().splitlines()[:3]))
    process = subprocess.run(
        make_command(two, tmp_path / "out", ["--start-servers", "1", "--comfyui", comfyui]),
        cwd=PACK,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    for name in list(singles)[:2]:
        result = np.array(Image.open(tmp_path / "out" / f"{name}.png"))
        assert np.array_equal(result, singles[name])


def inspect_ray(pid: int) -> tuple[set[str], set[str]]:
    """Where a batch and its cluster listen, and RAY_USAGE_STATS_ENABLED in the cluster's
    processes. ComfyUI is one of them, on a port of its own."""
    processes = psutil.Process(pid).children(recursive=True)
    addresses = {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in (psutil.Process(pid), *processes)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    cluster = [process for process in processes if process.name() in ("raylet", "gcs_server")]
    assert len(cluster) == 2, processes
    return addresses, {process.environ().get("RAY_USAGE_STATS_ENABLED", "") for process in cluster}


@pytest.mark.skipif(os.name == "nt", reason="finds the actor's process as POSIX shows it")
def test_the_same_on_ray_with_an_actor_killed(comfyui, folder, singles, tmp_path):
    pytest.importorskip("ray", reason="needs the package ray")
    output = tmp_path / "out"
    process = start_batch(folder, output, ["--ray", "--ray-actors", "2", "--comfyui", str(comfyui)])
    wait_for(output, 3, process)
    listing = subprocess.run(["ps", "-ewwo", "pid,args"], capture_output=True, text=True).stdout
    actors = [line.split() for line in listing.splitlines() if "ray::Worker" in line]
    assert len(actors) == 2, listing
    addresses, usage = inspect_ray(process.pid)
    assert addresses == {"127.0.0.1"}, "other machines reach the cluster"
    assert usage == {"0"}, "Ray reports its usage"
    os.kill(int(actors[0][0]), signal.SIGKILL)
    _, log = process.communicate(timeout=400)
    assert process.returncode == 0, log
    check_all(output, singles)
    listing = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True).stdout
    left = [line for line in listing.splitlines() if "main.py" in line and "stableviton-" in line]
    assert left == [], "servers of actors that are gone"
