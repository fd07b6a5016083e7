"""A batch on running ComfyUI servers: every job once, whatever fails on the way."""

import asyncio
import io
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from PIL import Image

from ...errors import ImageError, PromptError, PromptInterrupted, ServerError, StableVITONError
from .. import client
from ..graph import Graph
from .jobs import Job
from .ledger import Ledger, Outcome, roles_of, write_results
from .pool import Attempt, Pool, Queue
from .uploads import NOT_A_PICTURE, Uploads, content_of, name_of
from .wiring import Wiring, check_jobs, filled, problems, wire

_log = logging.getLogger(__name__)

DEPTH = 2  # prompts that a server has at a time: one runs, one waits
STRIKES = 5  # failures of a server in a row, after which it is given up
BACKOFF = 1.0  # seconds until a server that failed is asked again; doubled with each time
QUESTIONS = 7  # that it may leave without an answer: two minutes


@dataclass
class Batch:
    """What the workers of a batch share. strikes: failures in a row, by server."""

    graph: Graph
    wiring: Wiring
    timeout: float
    pool: Pool
    ledger: Ledger
    strikes: dict[str, int] = field(default_factory=dict)
    recovering: dict[str, asyncio.Lock] = field(default_factory=dict)


async def run_batch(
    jobs: Sequence[Job],
    graph: Graph,
    servers: Sequence[str],
    output: Path,
    nodes: Mapping[str, str],
    timeout: float,
) -> Outcome:
    """Make what is not there yet, and return what came of all jobs.

    nodes: titles or ids of the graph's nodes, by role and "result", where they have other titles.
    timeout: seconds for one job, from queueing. Cancelling takes this batch's prompts off the
    servers. StableVITONError where no server can run the graph, or a result cannot be written.
    """
    usable, wiring = await _usable(jobs, graph, servers, nodes)
    with Ledger(jobs, graph, wiring, output) as ledger:
        batch = Batch(graph, wiring, timeout, Pool(Queue(ledger.todo, usable)), ledger)
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
    jobs: Sequence[Job], graph: Graph, servers: Sequence[str], nodes: Mapping[str, str]
) -> tuple[list[str], Wiring]:
    """The servers that can run the graph. StableVITONError where there is none, with the reasons."""
    usable: list[str] = []
    reasons: list[str] = []
    wiring = None
    for server in dict.fromkeys(server.rstrip("/") for server in servers):
        if not server.startswith(("http://", "https://")):
            raise StableVITONError(
                f"a server is an address like http://127.0.0.1:8188, got {server!r}"
            )
        try:
            async with client.connect(server) as session:
                info = await client.object_info(session)
                with client.understood("object_info"):
                    wiring = checked_wiring(jobs, graph, info, nodes)
        except (ServerError, StableVITONError) as error:
            reasons.append(f"{server}: {error}")
        except ValueError as error:
            raise StableVITONError(f"{server!r} is no address: {error}") from error
        else:
            usable.append(server)
    if wiring is None or not usable:
        raise StableVITONError("no server can run this batch.\n" + "\n".join(reasons))
    for reason in reasons:
        _log.warning("Going on without %s", reason)
    return usable, wiring


def checked_wiring(
    jobs: Sequence[Job], graph: Graph, info: Mapping[str, Any], nodes: Mapping[str, str]
) -> Wiring:
    """The graph's nodes for the jobs. StableVITONError where a server of this object_info cannot run
    them."""
    lacking = sorted({entry["class_type"] for entry in graph.values()} - set(info))
    if lacking:
        raise StableVITONError(f"it has no node {', '.join(lacking)}. Install the pack there.")
    wiring = wire(graph, info, roles_of(jobs), nodes)
    check_jobs(jobs, graph, info, wiring)
    found = problems(graph, info, wiring)
    if found:
        raise StableVITONError("it cannot run the graph.\n  " + "\n  ".join(found))
    return wiring


async def _serve(batch: Batch, server: str) -> None:
    """Keep a server busy until there is nothing left to do for it, or it is given up."""
    async with client.connect(server) as session:
        uploads = Uploads(session)
        await _together([asyncio.create_task(_slot(batch, server, uploads)) for _ in range(DEPTH)])


async def _slot(batch: Batch, server: str, uploads: Uploads) -> None:
    pool, ledger = batch.pool, batch.ledger
    while attempt := await pool.take(server):
        job, started = attempt.job, time.time()
        limit = batch.timeout * DEPTH  # the other slot's job may be run first
        try:
            files = await asyncio.wait_for(_make(batch, uploads, job), limit)
        except ImageError as error:
            ledger.failed(job, None, started, str(error))
            await pool.finished()
        except (ServerError, PromptInterrupted) as error:
            uploads.forget()
            await _failed(batch, attempt, server, started, str(error))
            await _recover(batch, server, uploads.session, error)
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


async def _recover(
    batch: Batch, server: str, session: aiohttp.ClientSession, error: Exception
) -> None:
    """Wait until a server answers again; give it up where it does not, or has failed too often."""
    async with batch.recovering.setdefault(server, asyncio.Lock()):
        batch.strikes[server] = strikes = batch.strikes.get(server, 0) + 1
        if strikes < STRIKES:
            for question in range(QUESTIONS):
                await asyncio.sleep(BACKOFF * 2**question)
                try:
                    await client.is_queued(session, "")
                except ServerError as still:
                    error = still
                else:
                    return
        if server in batch.pool.queue.servers:
            _log.warning("%s is given up: %s", server, error)
            for attempt in await batch.pool.leave(server):
                batch.ledger.failed(attempt.job, server, time.time(), attempt.error)


async def _make(batch: Batch, uploads: Uploads, job: Job) -> list[str]:
    """Run one job; the names of the files that were written."""
    images = {}
    for role, path in job.pictures.items():
        digest = batch.ledger.digests[job.name][role]
        content = partial(content_of, path, digest)
        images[role] = await uploads.send(name_of(path, digest), content)
    graph = filled(batch.graph, batch.wiring, images, job.seed)
    pictures = await results(uploads.session, graph, batch.wiring.result)
    return write_results(batch.ledger.output, job.name, pictures)


async def results(
    session: aiohttp.ClientSession, graph: Graph, node: str
) -> list[tuple[str, bytes]]:
    """Run a graph; names and contents of the pictures of one node. PromptError where it gave
    none; ServerError where they are no pictures."""
    outputs = await client.run(session, graph)
    with client.understood("history"):
        listed = [(str(p["filename"]), p) for p in outputs.get(node, {}).get("images") or []]
    if not listed:
        raise PromptError("The graph ended without a picture at the result's node.")
    made = []
    for name, picture in listed:
        content = await client.download(session, picture)
        try:
            with Image.open(io.BytesIO(content)) as opened:
                opened.verify()
        except NOT_A_PICTURE as error:
            raise ServerError(f"The server's {name} is no picture: {error}") from error
        made.append((name, content))
    return made
