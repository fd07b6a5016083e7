"""The command `batch`: what its flags start."""

import argparse
import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from ...errors import StableVITONError
from ..graph import Graph, load_graph
from .jobs import ROLES, Job, product, read_pairs
from .ledger import Outcome, written
from .manifest import FILE
from .run import run_batch
from .servers import own_servers
from .sheet import contact_sheet
from .wiring import override

_log = logging.getLogger(__name__)


def run(chosen: argparse.Namespace) -> int:
    """0 where all results are there, 1 where one is not."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        jobs = _jobs(chosen)
        graph = load_graph(chosen.graph)
        override(graph, chosen.set)
        outcome = _executor(chosen)(jobs, graph)
    except StableVITONError as error:
        raise StableVITONError(str(error)) from error
    except KeyboardInterrupt:
        _log.warning("Stopped. What is done is in %s; start again to go on.", chosen.output)
        return 130
    if chosen.contact_sheet:
        with written(chosen.output):
            _log.info("Contact sheet: %s", contact_sheet(jobs, outcome.results, chosen.output))
    done = len(outcome.results)
    _log.info("%d of %d results in %s, see %s there", done, len(jobs), chosen.output, FILE)
    for name, reason in outcome.failed.items():
        _log.error("Failed: %s: %s", name, reason)
    if outcome.left:
        _log.error("%d pairs are left, but no server is. Start again to go on.", outcome.left)
    return 0 if done == len(jobs) else 1


async def _until_signal(work: Coroutine[Any, Any, Outcome]) -> Outcome:
    """Ctrl-C and SIGTERM cancel the work, which ends what it has begun, and are KeyboardInterrupt
    only then."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # Windows has its own way
            loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError as error:
        raise KeyboardInterrupt from error


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _jobs(chosen: argparse.Namespace) -> list[Job]:
    folders = {
        role: folder
        for role, folder in (("mask", chosen.masks), ("densepose", chosen.denseposes))
        if folder
    }
    if chosen.pairs and not (chosen.persons or chosen.garments or folders):
        return read_pairs(chosen.pairs, chosen.seed)
    if chosen.persons and chosen.garments and not chosen.pairs:
        return product(chosen.persons, chosen.garments, folders, chosen.seed)
    raise StableVITONError("give either --pairs, or --persons and --garments")


def _executor(chosen: argparse.Namespace) -> Callable[[Sequence[Job], Graph], Outcome]:
    """What runs the jobs: servers, or a cluster."""
    ways = (bool(chosen.server), chosen.start_servers > 0, chosen.ray is not None)
    if sum(ways) != 1:
        raise StableVITONError("give one of --server, --start-servers and --ray")
    nodes = {role: getattr(chosen, f"{role}_node") for role in (*ROLES, "result")}
    nodes = {role: name for role, name in nodes.items() if name}
    if chosen.ray is not None:
        from .on_ray import Cluster, run_on_ray

        cluster = Cluster(chosen.ray, chosen.ray_actors, _comfyui(chosen))
        return lambda jobs, graph: run_on_ray(
            jobs, graph, cluster, chosen.output, nodes, chosen.timeout
        )

    def on_servers(jobs: Sequence[Job], graph: Graph) -> Outcome:
        with ExitStack() as stack:
            urls = chosen.server
            if chosen.start_servers:
                base = chosen.output / ".servers"
                started = own_servers(chosen.start_servers, _comfyui(chosen), base)
                urls = [server.url for server in stack.enter_context(started)]
            return asyncio.run(
                _until_signal(run_batch(jobs, graph, urls, chosen.output, nodes, chosen.timeout))
            )

    return on_servers


def _comfyui(chosen: argparse.Namespace) -> Path:
    folder = chosen.comfyui or Path(os.environ.get("COMFYUI_PATH", ""))
    if not (folder / "main.py").is_file():
        raise StableVITONError(
            "to start servers, name the folder of a ComfyUI (with its main.py): --comfyui DIR, or "
            f"the variable COMFYUI_PATH. There is none in {str(folder)!r}."
        )
    return folder.resolve()
