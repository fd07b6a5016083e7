"""What the batch client costs, on a fake server that answers as a ComfyUI does.

    python benchmarks/batch.py [--pairs 1000]

Overhead: median time per pair of a long batch beyond the server's fixed time per prompt. Memory:
resident size of the process after a tenth of the pairs and at the end. Two servers: pairs per
second of two servers against one.
"""

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from PIL import Image
from process_memory import read_memory

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers.fake_server import GRAPH, FakeServer, run_fake_server  # noqa: E402
from stableviton_core.serving.batch.jobs import Job, combine_folders  # noqa: E402
from stableviton_core.serving.batch.manifest import MANIFEST  # noqa: E402
from stableviton_core.serving.batch.server_pool import run_batch  # noqa: E402

PERSONS = 20
LATENCY = 0.1  # seconds per prompt


@contextmanager
def make_jobs(count: int) -> Iterator[tuple[list[Job], Path]]:
    """Jobs with small images, and a temporary folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counts = {"persons": min(PERSONS, count), "garments": -(-count // PERSONS)}
        for kind, number in counts.items():
            (folder / kind).mkdir()
            for index in range(number):
                shade = (index % 256, index // 256, len(kind))
                Image.new("RGB", (384, 512), shade).save(folder / kind / f"{index}.png")
        jobs = combine_folders(folder / "persons", folder / "garments", {}, seed=0)
        yield jobs[:count], folder


def time_batch(jobs: list[Job], servers: list[FakeServer], output: Path) -> float:
    start = time.perf_counter()
    urls = [server.url for server in servers]
    outcome = asyncio.run(run_batch(jobs, GRAPH, urls, output, {}, 60))
    assert len(outcome.results) == len(jobs)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=1000)
    count = parser.parse_args().pairs
    with make_jobs(count) as (jobs, folder), run_fake_server(latency=LATENCY) as server:
        few = count // 10
        time_batch(jobs[:few], [server], folder / "few")
        small = read_memory() / 2**20
        server.history.clear()
        time_batch(jobs, [server], folder / "all")
        large = read_memory() / 2**20
        lines = (folder / "all" / MANIFEST).read_text().splitlines()
        ends = sorted(e["started"] + e["seconds"] for e in map(json.loads, lines))
        between = [after - before for before, after in itertools.pairwise(ends)]
    with make_jobs(few) as (jobs, folder):
        with run_fake_server(latency=LATENCY) as one, run_fake_server(latency=LATENCY) as two:
            alone = time_batch(jobs, [one], folder / "one")
            both = time_batch(jobs, [one, two], folder / "two")
    print(f"\n{count} pairs, {1000 * LATENCY:.0f} ms per prompt on the server")
    print("| measure | value |\n|---|---|")
    print(f"| overhead per pair, median | {1000 * (median(between) - LATENCY):.1f} ms |")
    print(f"| memory after {few} pairs | {small:.0f} MB |")
    print(f"| memory after {count} more (with the fake server's records) | {large:.0f} MB |")
    print(f"| two servers against one, {few} pairs | {alone / both:.2f} times as fast |")


if __name__ == "__main__":
    main()
