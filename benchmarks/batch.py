"""What the batch client costs, on a stand-in that answers as a ComfyUI does.

    python benchmarks/batch.py [--pairs 1000]

Overhead: with a server that takes a fixed time a prompt, the time a pair takes in a long batch,
beyond that; medians over the batch. Memory: the process' size after a tenth of the pairs and at the
end. Two servers: pairs a second of two against one, same fixed time.
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

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers.standin import GRAPH, StandIn, standing_in  # noqa: E402
from stableviton_core.serving.batch import manifest  # noqa: E402
from stableviton_core.serving.batch.jobs import Job, product  # noqa: E402
from stableviton_core.serving.batch.run import run_batch  # noqa: E402

PERSONS = 20
LATENCY = 0.1  # seconds a prompt


def resident_megabytes() -> float:
    """Of this process, where the system tells (Linux)."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return float("nan")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


@contextmanager
def pairs(count: int) -> Iterator[tuple[list[Job], Path]]:
    """Jobs of small pictures, and a folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counts = {"persons": min(PERSONS, count), "garments": -(-count // PERSONS)}
        for kind, number in counts.items():
            (folder / kind).mkdir()
            for index in range(number):
                shade = (index % 256, index // 256, len(kind))
                Image.new("RGB", (384, 512), shade).save(folder / kind / f"{index}.png")
        jobs = product(folder / "persons", folder / "garments", {}, seed=0)
        yield jobs[:count], folder


def seconds(jobs: list[Job], servers: list[StandIn], output: Path) -> float:
    began = time.perf_counter()
    urls = [server.url for server in servers]
    outcome = asyncio.run(run_batch(jobs, GRAPH, urls, output, {}, 60))
    assert len(outcome.results) == len(jobs)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=1000)
    count = parser.parse_args().pairs
    with pairs(count) as (jobs, folder), standing_in(latency=LATENCY) as server:
        few = count // 10
        seconds(jobs[:few], [server], folder / "few")
        small = resident_megabytes()
        server.history.clear()
        seconds(jobs, [server], folder / "all")
        large = resident_megabytes()
        told = (folder / "all" / manifest.FILE).read_text().splitlines()
        ends = sorted(e["started"] + e["seconds"] for e in map(json.loads, told))
        between = [after - before for before, after in itertools.pairwise(ends)]
    with pairs(few) as (jobs, folder):
        with standing_in(latency=LATENCY) as one, standing_in(latency=LATENCY) as two:
            alone = seconds(jobs, [one], folder / "one")
            both = seconds(jobs, [one, two], folder / "two")
    print(f"\n{count} pairs, {1000 * LATENCY:.0f} ms a prompt on the server")
    print("| what | figure |\n|---|---|")
    print(f"| overhead a pair, median | {1000 * (median(between) - LATENCY):.1f} ms |")
    print(f"| memory after {few} pairs | {small:.0f} MB |")
    print(f"| memory after {count} more (the stand-in's own records with it) | {large:.0f} MB |")
    print(f"| two servers against one, {few} pairs | {alone / both:.2f} times as fast |")


if __name__ == "__main__":
    main()
