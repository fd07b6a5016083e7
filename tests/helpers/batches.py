"""Batches against servers, in this process and as a command."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from stableviton_core.serving.batch.jobs import Job
from stableviton_core.serving.batch.run_state import Outcome
from stableviton_core.serving.batch.server_pool import run_batch

from .fake_server import GRAPH

ROOT = Path(__file__).resolve().parents[2]


def run_jobs(
    jobs: Sequence[Job],
    servers: Sequence[str],
    output: Path,
    timeout: float = 20.0,
    graph: dict = GRAPH,
) -> Outcome:
    return asyncio.run(run_batch(jobs, graph, servers, output, {}, timeout))


def start_batch(folders: tuple[Path, Path], url: str, output: Path) -> subprocess.Popen:
    """The command, for folders of persons and garments."""
    graph = output.parent / "graph.json"
    graph.write_text(json.dumps(GRAPH))
    command = [sys.executable, "-m", "stableviton_core", "batch", "--graph", str(graph)]
    command += ["--persons", str(folders[0]), "--garments", str(folders[1])]
    command += ["--server", url, "--output", str(output)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
