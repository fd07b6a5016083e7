"""The command `batch`: runs its jobs on servers or on Ray and reports their results."""

import asyncio
import logging
import os
import signal
import tempfile
from collections.abc import Coroutine, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import StableVITONError
from ...folder_lock import lock_folder
from ...interruption import INTERRUPTED, raise_interrupt_on_sigterm
from ..graph import Graph, load_graph
from ..process import start_servers
from .config import BatchConfig
from .contact_sheet import write_contact_sheet
from .jobs import ROLES, Job, combine_folders, read_pairs
from .manifest import MANIFEST
from .node_bindings import override_inputs
from .run_state import Outcome, explain_write_errors
from .server_pool import run_batch

_log = logging.getLogger(__name__)


def run(config: BatchConfig) -> int:
    """The exit code: 0 where all results are there, 1 where one is missing, 130 after Ctrl-C.
    StableVITONError where the batch cannot start or its results cannot be written."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    raise_interrupt_on_sigterm()
    output = config.output
    try:
        jobs = [replace(job, candidates=config.best_of) for job in _list_jobs(config)]
        graph = load_graph(config.graph)
        override_inputs(graph, config.set)
        with lock_folder(output, "stableviton batch"):
            outcome = _run_jobs(config, jobs, graph)
            if config.contact_sheet:
                with explain_write_errors(output):
                    sheet = write_contact_sheet(jobs, outcome.results, output)
                _log.info("Contact sheet: %s", sheet)
    except KeyboardInterrupt:
        _log.warning("Stopped. What is done is in %s; start again to go on.", output)
        return INTERRUPTED
    done = len(outcome.results)
    _log.info("%d of %d results in %s, see %s there", done, len(jobs), output, MANIFEST)
    for name, reason in outcome.failed.items():
        _log.error("Failed: %s: %s", name, reason)
    if outcome.left:
        _log.error("%d pairs are left, but no server is. Start again to go on.", outcome.left)
    return 0 if done == len(jobs) else 1


def _list_jobs(config: BatchConfig) -> list[Job]:
    if config.best_of < 1:
        raise StableVITONError(f"--best-of is a number of seeds from 1 on, got {config.best_of}")
    folders = {"mask": config.masks, "densepose": config.denseposes}
    companions = {role: folder for role, folder in folders.items() if folder}
    if config.pairs and not (config.persons or config.garments or companions):
        return read_pairs(config.pairs, config.seed)
    if config.persons and config.garments and not config.pairs:
        return combine_folders(config.persons, config.garments, companions, config.seed)
    raise StableVITONError("give either --pairs, or --persons and --garments")


def _run_jobs(config: BatchConfig, jobs: Sequence[Job], graph: Graph) -> Outcome:
    """Run the jobs on servers that are running, on servers to start, or on a Ray cluster."""
    on_ray = config.ray is not False
    if [bool(config.server), config.start_servers > 0, on_ray].count(True) != 1:
        raise StableVITONError("give one of --server, --start-servers and --ray")
    nodes = {role: getattr(config, f"{role}_node") for role in (*ROLES, "result")}
    nodes = {role: name for role, name in nodes.items() if name}
    if on_ray:
        from .ray_cluster import Cluster, run_on_ray

        address = config.ray if isinstance(config.ray, str) else ""
        cluster = Cluster(address, config.ray_actors, _find_comfyui(config))
        return run_on_ray(jobs, graph, cluster, config.output, nodes, config.timeout)
    with ExitStack() as stack:
        urls: Sequence[str] = config.server
        if config.start_servers:
            # not in the output folder: what lies there could be run as a custom node
            base = stack.enter_context(tempfile.TemporaryDirectory(prefix="stableviton-"))
            servers = start_servers(config.start_servers, _find_comfyui(config), Path(base))
            urls = [server.url for server in stack.enter_context(servers)]
        batch = run_batch(jobs, graph, urls, config.output, nodes, config.timeout)
        return asyncio.run(_run_until_signal(batch))


def _find_comfyui(config: BatchConfig) -> Path:
    folder = config.comfyui or Path(os.environ.get("COMFYUI_PATH", ""))
    if not (folder / "main.py").is_file():
        raise StableVITONError(
            "to start servers, name the folder of a ComfyUI (with its main.py): --comfyui DIR, or "
            f"the variable COMFYUI_PATH. There is none in {str(folder)!r}."
        )
    return folder.resolve()


async def _run_until_signal(work: Coroutine[Any, Any, Outcome]) -> Outcome:
    """Cancel the work at Ctrl-C or SIGTERM, wait for its clean-up, then raise KeyboardInterrupt."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # on Windows; asyncio.run handles Ctrl-C itself
            loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError as error:
        raise KeyboardInterrupt from error
