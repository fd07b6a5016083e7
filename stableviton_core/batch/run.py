"""A batch on running ComfyUI servers: every job once, whatever fails on the way."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from ..serving import client
from ..serving.errors import PromptError, PromptInterrupted, ServerError
from ..serving.graph import Graph
from .jobs import BatchError, Job
from .ledger import Ledger, Outcome, roles_of, write_results
from .pool import Attempt, Pool
from .uploads import Uploads
from .wiring import Wiring, filled, problems, wire

_log = logging.getLogger(__name__)

DEPTH = 2  # prompts that a server has at a time: one runs, one waits
STRIKES = 5  # failures of a server in a row, after which it is given up
BACKOFF = 1.0  # seconds after the first of them; doubled with each


@dataclass
class Batch:
    """What the workers of a batch share. strikes: failures in a row, by server."""

    graph: Graph
    wiring: Wiring
    timeout: float
    pool: Pool
    ledger: Ledger
    strikes: dict[str, int] = field(default_factory=dict)


async def run_batch(
    jobs: Sequence[Job], graph: Graph, servers: Sequence[str], output: Path,
    nodes: Mapping[str, str], timeout: float,
) -> Outcome:  # fmt: skip
    """Make what is not there yet, and return what came of all jobs.

    nodes: titles or ids of the graph's nodes, by role and "result", where they have other titles.
    timeout: seconds for one job, from queueing. Cancelling takes this batch's prompts off the
    servers. BatchError where no server can run the graph, or a result cannot be written.
    """
    usable, wiring = await _usable(graph, servers, roles_of(jobs), nodes)
    with Ledger(jobs, graph, wiring, output) as ledger:
        batch = Batch(graph, wiring, timeout, Pool(ledger.todo, usable), ledger)
        workers = [asyncio.create_task(_serve(batch, server)) for server in usable]
        await _together(workers)
        return ledger.outcome()


async def _together(tasks: Sequence["asyncio.Task[None]"]) -> None:
    """Wait for all; where one fails or we are cancelled, end the others first."""
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _usable(
    graph: Graph, servers: Sequence[str], given: Sequence[str], nodes: Mapping[str, str]
) -> tuple[list[str], Wiring]:
    """The servers that can run the graph. BatchError where there is none, with the reasons."""
    usable: list[str] = []
    reasons: list[str] = []
    wiring = None
    for server in dict.fromkeys(server.rstrip("/") for server in servers):
        try:
            async with client.connect(server) as session:
                info = await client.object_info(session)
        except ServerError as error:
            reasons.append(f"{server}: {error}")
            continue
        try:
            wiring = checked_wiring(graph, info, given, nodes)
        except BatchError as error:
            reasons.append(f"{server}: {error}")
        else:
            usable.append(server)
    if wiring is None or not usable:
        raise BatchError("no server can run this batch.\n" + "\n".join(reasons))
    for reason in reasons:
        _log.warning("Going on without %s", reason)
    return usable, wiring


def checked_wiring(
    graph: Graph, info: Mapping, given: Sequence[str], nodes: Mapping[str, str]
) -> Wiring:
    """The graph's nodes for the jobs. BatchError where a server of this object_info cannot run
    it."""
    lacking = sorted({entry["class_type"] for entry in graph.values()} - set(info))
    if lacking:
        raise BatchError(f"it has no node {', '.join(lacking)}. Install the pack there.")
    wiring = wire(graph, info, given, nodes)
    found = problems(graph, info, wiring)
    if found:
        raise BatchError("it cannot run the graph.\n  " + "\n  ".join(found))
    return wiring


async def _serve(batch: Batch, server: str) -> None:
    """Keep a server busy until there is nothing left to do for it, or it is given up."""
    async with client.connect(server) as session:
        uploads = Uploads(session)
        await _together([asyncio.create_task(_slot(batch, server, uploads)) for _ in range(DEPTH)])


async def _slot(batch: Batch, server: str, uploads: Uploads) -> None:
    pool, ledger = batch.pool, batch.ledger
    while server in pool.servers:
        attempt = await pool.take(server)
        if attempt is None:
            return
        job, started = attempt.job, time.time()
        try:
            files = await asyncio.wait_for(_make(batch, uploads, job), batch.timeout)
        except (ServerError, PromptInterrupted) as error:
            uploads.forget()
            await _failed(batch, attempt, server, started, str(error))
            await _strike(batch, server, error)
        except (PromptError, asyncio.TimeoutError) as error:
            reason = str(error) or f"it took longer than --timeout, {batch.timeout:.0f} s"
            attempt.failed_on.add(server)
            batch.strikes[server] = 0
            await _failed(batch, attempt, server, started, reason)
        else:
            batch.strikes[server] = 0
            ledger.finished(job, server, started, files)
            await pool.finished()


async def _failed(batch: Batch, attempt: Attempt, server: str, started: float, reason: str) -> None:
    attempt.error = reason
    if not await batch.pool.put_back(attempt):
        batch.ledger.failed(attempt.job, server, started, reason)


async def _strike(batch: Batch, server: str, error: Exception) -> None:
    """Wait for a server to recover, longer each time; give it up after STRIKES."""
    batch.strikes[server] = count = batch.strikes.get(server, 0) + 1
    if count < STRIKES:
        await asyncio.sleep(BACKOFF * 2 ** (count - 1))
    elif server in batch.pool.servers:
        _log.warning("%s is given up after %d failures: %s", server, count, error)
        for attempt in await batch.pool.leave(server):
            batch.ledger.failed(attempt.job, server, time.time(), attempt.error)


async def _make(batch: Batch, uploads: Uploads, job: Job) -> list[str]:
    """Run one job; the names of the files that were written."""
    digests = batch.ledger.digests[job.name]
    images = {
        role: await uploads.name_of(path, digests[role]) for role, path in job.pictures.items()
    }
    graph = filled(batch.graph, batch.wiring, images, job.seed)
    pictures = await results(uploads.session, graph, batch.wiring.result)
    return write_results(batch.ledger.output, job.name, pictures)


async def results(
    session: aiohttp.ClientSession, graph: Graph, node: str
) -> list[tuple[str, bytes]]:
    """Run a graph; names and contents of the pictures of one node. PromptError where it gave
    none."""
    outputs = await client.run(session, graph)
    listed = outputs.get(node, {}).get("images") or []
    if not listed:
        raise PromptError("The graph ended without a picture at the result's node.")
    return [
        (str(picture.get("filename")), await client.download(session, picture))
        for picture in listed
    ]
