"""The command `batch`: its flags, and what they start."""

import argparse
import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from ..serving.errors import ServingError
from ..serving.graph import Graph, load_graph
from .jobs import ROLES, BatchError, Job, product, read_pairs
from .ledger import Outcome, written
from .manifest import FILE
from .run import run_batch
from .servers import own_servers
from .sheet import contact_sheet
from .wiring import override

_log = logging.getLogger(__name__)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--graph", type=Path, required=True, help="a graph in the API format")
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    what = parser.add_argument_group("what to make: listed pairs, or persons in all garments")
    what.add_argument("--pairs", type=Path, help="CSV: person,garment[,mask,densepose,seed]")
    what.add_argument("--persons", type=Path, help="folder of pictures")
    what.add_argument("--garments", type=Path, help="folder of pictures")
    what.add_argument("--masks", type=Path, help="folder: the persons' masks, by name")
    what.add_argument("--denseposes", type=Path, help="folder: the persons' DensePoses, by name")
    what.add_argument("--seed", type=int, default=0, help="of pairs without one of their own")
    where = parser.add_argument_group("where: servers that run, or that are started")
    where.add_argument("--server", action="append", default=[], help="URL; as often as wanted")
    where.add_argument("--start-servers", type=int, default=0, metavar="N")
    where.add_argument("--ray", nargs="?", const="", metavar="ADDRESS", help="a Ray cluster")
    where.add_argument("--ray-actors", type=int, help="servers on the cluster; one a GPU if left")
    where.add_argument("--comfyui", type=Path, help="the folder with its main.py, to start servers")
    graph = parser.add_argument_group("the graph's nodes")
    graph.add_argument("--set", action="append", default=[], metavar="NODE.INPUT=VALUE")
    for role in (*ROLES, "result"):
        graph.add_argument(f"--{role}-node", metavar="TITLE", help="title or id, if another")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for one pair")
    parser.add_argument(
        "--contact-sheet", action="store_true", help="also a picture of all results"
    )


def run(chosen: argparse.Namespace) -> int:
    """0 where all results are there, 1 where one is not."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        jobs = _jobs(chosen)
        graph = load_graph(chosen.graph)
        override(graph, chosen.set)
        outcome = _executor(chosen)(jobs, graph)
    except ServingError as error:
        raise BatchError(str(error)) from error
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
    raise BatchError("give either --pairs, or --persons and --garments")


def _executor(chosen: argparse.Namespace) -> Callable[[Sequence[Job], Graph], Outcome]:
    """What runs the jobs: servers, or a cluster."""
    ways = (bool(chosen.server), chosen.start_servers > 0, chosen.ray is not None)
    if sum(ways) != 1:
        raise BatchError("give one of --server, --start-servers and --ray")
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
        raise BatchError(
            "to start servers, name the folder of a ComfyUI (with its main.py): --comfyui DIR, or "
            f"the variable COMFYUI_PATH. There is none in {str(folder)!r}."
        )
    return folder.resolve()
