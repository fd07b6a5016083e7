"""Many queued runs on one ComfyUI server: memory, threads, handles, patches and results stay.

    COMFYUI_PATH=... python benchmarks/endurance.py [--runs 300] [--json FILE]

Graphs, sizes, garments and seeds, cancellations and errors in turn, with the demo checkpoint, few
steps and a server that keeps only the results of the last graph (--cache-classic), so that every
run computes. After each run the server process is measured (Linux). The first fifth of the runs is
warm-up; of the rest, the last third is compared with the first third. Exit code 1 when a check
fails.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import aiohttp
import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from stableviton_core.errors import PromptError  # noqa: E402
from stableviton_core.images import decode_image, read_image  # noqa: E402
from stableviton_core.serving import client  # noqa: E402
from stableviton_core.serving.graph import (  # noqa: E402
    Graph,
    find_class,
    find_title,
    load_graph,
    set_image,
    set_input,
)
from stableviton_core.serving.install import install_pack  # noqa: E402
from stableviton_core.serving.process import Server, count_accelerators, serve  # noqa: E402

GRAPHS = ROOT / "workflows" / "api"
WARM_UP = 0.2  # of the runs
MEMORY_TOLERANCE = 1.02
SIZES = ((64, 96), (96, 128), (128, 96))  # width, height
WRONG_SIZE = (100, 130)  # no multiples of 8
GARMENTS = 3
STEPS = 2
FREE_EVERY = 37  # runs until the models are unloaded, as the button in the web interface does
EXACT = ("threads", "handles", "patchers", "patches", "wrappers", "additional", "loaded")
BROKEN = "broken.safetensors"


@dataclass
class Record:
    """results: the first result of each kind, H x W x 3 uint8. different: later unequal results."""

    samples: list[dict[str, float | str]] = field(default_factory=list)
    results: dict[str, np.ndarray] = field(default_factory=dict)
    compared: int = 0
    different: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)


Run = Callable[[aiohttp.ClientSession, int, Record], Awaitable[None]]


async def upload_images(session: aiohttp.ClientSession) -> None:
    """The demo's images in every size, `person-96x128.png` and so on, and several garments."""
    files = {name: read_image(ROOT / "demo" / f"{name}.png") for name in ("person", "densepose")}
    files["mask"] = np.repeat(read_image(ROOT / "demo" / "mask.png")[..., :1], 3, axis=-1)
    garment = read_image(ROOT / "demo" / "garment.png")
    for index in range(GARMENTS):
        files[f"garment{index}"] = np.ascontiguousarray(np.roll(garment, index, axis=-1))
    for name, image in files.items():
        for width, height in (*SIZES, WRONG_SIZE):
            resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST)
            content = cv2.imencode(".png", resized[..., ::-1])[1].tobytes()
            await client.upload_bytes(session, content, f"{name}-{width}x{height}.png")
    await client.upload_image(session, ROOT / "demo" / "photo.jpg")


def make_tryon_graph(size: tuple[int, int], variant: int, name: str = "tryon") -> Graph:
    graph = load_graph(GRAPHS / f"{name}.json")
    suffix = "{}x{}.png".format(*size)
    for title in ("Person", "Mask", "DensePose"):
        set_image(graph, title, f"{title.lower()}-{suffix}")
    set_image(graph, "Garment", f"garment{variant}-{suffix}")
    return set_sampling(graph, variant)


def make_photo_graph(name: str, variant: int) -> Graph:
    """A graph that starts with a photo, at half its width and height: 192 x 256, a second pass at
    384 x 512."""
    graph = load_graph(GRAPHS / f"{name}.json")
    set_image(graph, "Person", "photo.jpg")
    set_image(graph, "Garment", f"garment{variant}-96x128.png")
    for node in graph.values():
        if node["class_type"] in ("StableVITONCrop", "StableVITONGarment", "ImageScale"):
            for side in ("width", "height"):
                node["inputs"][side] //= 2
    return set_sampling(graph, variant)


def set_sampling(graph: Graph, seed: int, steps: int = STEPS) -> Graph:
    for node in graph.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = steps
        for name in ("noise_seed", "seed"):
            if name in node["inputs"]:
                node["inputs"][name] = seed
    return graph


def make_result_run(kind: str, make: Callable[[int], Graph], title: str = "Result") -> Run:
    """A run whose result is compared with the first one of the same kind and variant."""

    async def run(session: aiohttp.ClientSession, variant: int, record: Record) -> None:
        graph = make(variant)
        outputs = await client.run(session, graph)
        file = outputs[find_title(graph, title)]["images"][0]
        result = decode_image(await client.download(session, file))
        name = f"{kind}, variant {variant}"
        if name not in record.results:
            record.results[name] = result
            return
        record.compared += 1
        if not np.array_equal(result, record.results[name]):
            record.different.append(f"run {len(record.samples)}: {name}")

    return run


def make_error_run(text: str, change: Callable[[Graph], None]) -> Run:
    """A run that must end with a PromptError which contains the text."""

    async def run(session: aiohttp.ClientSession, variant: int, record: Record) -> None:
        graph = make_tryon_graph(SIZES[1], variant)
        change(graph)
        try:
            await client.run(session, graph)
        except PromptError as error:
            if text in str(error):
                return
            record.unexpected.append(f"run {len(record.samples)}: {error}")
        else:
            record.unexpected.append(f"run {len(record.samples)}: no error with {text!r}")

    return run


async def cancel_in_sampling(session: aiohttp.ClientSession, variant: int, record: Record) -> None:
    graph = set_sampling(make_tryon_graph(SIZES[variant % len(SIZES)], variant), variant, 500)
    sampler, sampling = find_class(graph, "SamplerCustom"), asyncio.Event()

    def notice(progress: client.Progress) -> None:
        if progress.node == sampler and progress.value >= 2:
            sampling.set()

    run = asyncio.create_task(client.run(session, graph, notice))
    started = asyncio.create_task(sampling.wait())
    await asyncio.wait({run, started}, return_when=asyncio.FIRST_COMPLETED)
    started.cancel()
    run.cancel()
    (end,) = await asyncio.gather(run, return_exceptions=True)
    if not isinstance(end, asyncio.CancelledError):
        record.unexpected.append(f"run {len(record.samples)}: ended before its cancellation: {end}")
    while any((await (await session.get("queue")).json()).values()):
        await asyncio.sleep(0.05)


def name_checkpoint(name: str) -> Callable[[Graph], None]:
    return lambda graph: set_input(graph, find_class(graph, "StableVITONLoader"), "ckpt_name", name)


def list_runs() -> dict[str, Run]:
    """The runs of one turn by name. A graph and the next one share no nodes but the loader."""
    runs = {}
    for width, height in SIZES:
        make = partial(make_tryon_graph, (width, height))
        runs[f"tryon {width} x {height}"] = make_result_run(f"tryon {width} x {height}", make)
    for name in sorted(file.stem for file in GRAPHS.glob("tryon_*.json")):
        if "StableVITONCrop" in (GRAPHS / f"{name}.json").read_text(encoding="utf-8"):
            make = partial(make_photo_graph, name)
        else:
            make = partial(make_tryon_graph, SIZES[1], name=name)
        runs[name] = make_result_run(name, make)
    return runs | {
        "cancelled": cancel_in_sampling,
        "wrong mask": make_error_run(
            "aspects differ", lambda graph: set_image(graph, "Mask", "mask-128x96.png")
        ),
        "wrong size": make_error_run(
            "multiples of 8", lambda graph: set_image(graph, "Person", "person-100x130.png")
        ),
        "missing checkpoint": make_error_run("missing.ckpt", name_checkpoint("missing.ckpt")),
        "prepare_dataset": make_result_run(
            "prepare_dataset", partial(make_photo_graph, "prepare_dataset"), title="agnostic-v3.2"
        ),
        "broken checkpoint": make_error_run("failed", name_checkpoint(BROKEN)),
    }


async def measure(session: aiohttp.ClientSession, process: int) -> dict[str, float]:
    """Memory of the server in MB, threads, open handles, and counts of report_models.py."""
    async with session.get("endurance") as answer:
        counts = await answer.json()
    folder = Path("/proc") / str(process)
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    memory = {name: int(status[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon")}
    handles = len(list((folder / "fd").iterdir()))
    return memory | {"threads": int(status["Threads"]), "handles": handles} | counts


async def run_all(server: Server, count: int) -> Record:
    record, runs = Record(), list_runs()
    async with client.connect(server.url) as session:
        await upload_images(session)
        for index in range(count):
            turn, position = divmod(index, len(runs))
            name = list(runs)[position]
            start = time.perf_counter()
            await runs[name](session, turn % GARMENTS, record)
            seconds = time.perf_counter() - start
            if index % FREE_EVERY == FREE_EVERY - 1:
                body = {"unload_models": True, "free_memory": True}
                await (await session.post("free", json=body)).read()
                await asyncio.sleep(1.5)  # the queue's thread looks for the flags each second
            sample = await measure(session, server.process.pid)
            record.samples.append({"run": name, "seconds": seconds, **sample})
            print(f"\r{index + 1} of {count} runs", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return record


def compare_thirds(samples: list[dict]) -> list[tuple[str, float, float, bool]]:
    """Of each measure: its name, value in the first and in the last third, and whether it stays.

    Memory is compared by medians; of the counts, which depend on the run, the maxima.
    """
    rest = samples[int(len(samples) * WARM_UP) :]
    first, last = rest[: len(rest) // 3], rest[-(len(rest) // 3) :]
    rows = []
    for name in ("VmRSS", "RssAnon"):
        before, after = (
            statistics.median(sample[name] for sample in part) for part in (first, last)
        )
        rows.append((f"{name}, median MB", before, after, after <= before * MEMORY_TOLERANCE))
    for name in EXACT:
        before, after = (max(sample[name] for sample in part) for part in (first, last))
        rows.append((f"{name}, largest", before, after, after <= before))
    return rows


def print_report(record: Record, seconds: float) -> bool:
    """Print the tables; whether everything passes."""
    samples = record.samples
    print(f"{len(samples)} runs in {seconds:.0f} s")
    print("| run | count | median s |\n|---|---|---|")
    for name in dict.fromkeys(sample["run"] for sample in samples):
        times = [sample["seconds"] for sample in samples if sample["run"] == name]
        print(f"| {name} | {len(times)} | {statistics.median(times):.2f} |")
    print("\n| measure of the server | first third | last third | |\n|---|---|---|---|")
    rows = compare_thirds(samples)
    for name, before, after, stays in rows:
        print(f"| {name} | {before:.0f} | {after:.0f} | {'PASS' if stays else 'FAIL'} |")
    checks = {
        f"{record.compared} results equal the first of their kind": not record.different
        and record.compared > 0,
        "every cancellation and error ended as it should": not record.unexpected,
    }
    print()
    for name, passed in checks.items():
        print(f"{'PASS' if passed else 'FAIL'}: {name}")
    for line in (*record.different, *record.unexpected):
        print(f"  {line}")
    return all(checks.values()) and all(stays for *_, stays in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        install_pack(base)
        shutil.copy(Path(__file__).with_name("report_models.py"), base / "custom_nodes")
        (base / "models" / "stableviton").mkdir(parents=True)
        demo = (ROOT / "demo" / "stableviton-demo.safetensors").read_bytes()
        (base / "models" / "stableviton" / BROKEN).write_bytes(demo[: len(demo) // 2])
        start = time.perf_counter()
        comfyui, cpu = Path(os.environ["COMFYUI_PATH"]), count_accelerators() == 0
        with serve(comfyui, base, cpu=cpu, options=["--cache-classic"]) as server:
            record = asyncio.run(run_all(server, arguments.runs))
        passed = print_report(record, time.perf_counter() - start)
    if arguments.json:
        arguments.json.write_text(json.dumps(record.samples), encoding="utf-8")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
