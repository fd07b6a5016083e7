"""What importing the pack adds to ComfyUI's start: seconds and memory.

    COMFYUI_PATH=... python benchmarks/import_time.py [--repeats 5] [--modules 15]

Each repeat is a fresh process, in which ComfyUI's modules are loaded as main.py does before it
loads custom nodes. Also lists the modules that the pack brought and that took longest (Python's
-X importtime, own time without that of the modules below).
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS, MEGABYTES = 0.3, 30.0  # goals
MARK = "== the pack"

SCRIPT = """
import asyncio, json, os, sys, time
sys.path[:0] = [os.environ["COMFYUI_PATH"], sys.argv[2]]
from process_memory import read_memory
from comfy.cli_args import args
args.cpu, args.base_directory = True, sys.argv[3]
import utils.extra_config
import comfy_api.latest, execution, nodes, server
async def load():
    server.PromptServer.instance = server.PromptServer(asyncio.get_running_loop())
    before = set(sys.modules)
    print(sys.argv[4], file=sys.stderr, flush=True)
    memory, start = read_memory(), time.perf_counter()
    loaded = await nodes.load_custom_node(sys.argv[1])
    assert loaded, "the pack does not load"
    report = {"seconds": time.perf_counter() - start, "megabytes": (read_memory() - memory) / 2**20}
    print(sys.argv[4], file=sys.stderr, flush=True)
    print(json.dumps(report | {"modules": sorted(set(sys.modules) - before)}), flush=True)
asyncio.run(load())
"""


def import_pack(folder: str, *options: str) -> tuple[dict, str]:
    """Load the pack in a fresh process: its report, and its standard error while it loaded."""
    arguments = [str(ROOT), str(Path(__file__).parent), folder, MARK]
    done = subprocess.run(
        [sys.executable, *options, "-c", SCRIPT, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": ""},
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1]), done.stderr.split(MARK)[1]


def sum_import_times(log: str) -> Counter[str]:
    """Microseconds by module of the pack or by other distribution, from the output of
    -X importtime."""
    times: Counter[str] = Counter()
    for own, name in re.findall(r"^import time:\s+(\d+) \|\s+\d+ \| +(.+)$", log, re.M):
        times[shorten(name)] += int(own)
    return times


def shorten(module: str) -> str:
    """The name of a module below the pack, which the host names by its path; of another, the
    topmost package."""
    pack = str(ROOT).replace(".", "_x_")
    if module.startswith(pack):
        return f"the pack{module.removeprefix(pack)}"
    return module.split(".")[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--modules", type=int, default=15, help="how many of the slowest to list")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        import_pack(folder)  # warms the caches of files and bytecode
        reports = [import_pack(folder)[0] for _ in range(arguments.repeats)]
        times = sum_import_times(import_pack(folder, "-X", "importtime")[1])
    seconds, megabytes = (
        statistics.median(report[name] for report in reports) for name in ("seconds", "megabytes")
    )
    print("| measure | median | goal | |\n|---|---|---|---|")
    passed = True
    for name, value, goal in (("s", seconds, SECONDS), ("MB", megabytes, MEGABYTES)):
        print(f"| {name} | {value:.3g} | {goal} | {'PASS' if value < goal else 'FAIL'} |")
        passed &= value < goal
    new = Counter(shorten(name).split(".")[0] for name in reports[0]["modules"])
    print(f"\nmodules that the host had not loaded: {dict(new.most_common())}")
    print("\n| module | own ms |\n|---|---|")
    for name, microseconds in times.most_common(arguments.modules):
        print(f"| {name} | {microseconds / 1000:.1f} |")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
