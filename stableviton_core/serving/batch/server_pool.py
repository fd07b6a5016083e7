"""A batch on running ComfyUI servers, over HTTP: two jobs at a time on each."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import ImageError, PromptError, ServerError, StableVITONError
from .. import client
from ..graph import Graph
from .jobs import Job
from .node_bindings import NodeBindings, prepare_bindings
from .retry_policy import (
    PROMPTS_PER_WORKER,
    Attempt,
    JobQueue,
    is_worker_failure,
    list_health_check_delays,
)
from .run_state import Outcome, RunState
from .transfer import JobRunner, prepare_job

_log = logging.getLogger(__name__)


async def run_batch(
    jobs: Sequence[Job],
    graph: Graph,
    servers: Sequence[str],
    output: Path,
    nodes: Mapping[str, str],
    timeout: float,
) -> Outcome:
    """Make the results that are not there yet; the state of all jobs afterwards.

    servers: addresses. nodes: titles or ids of the graph's nodes, by role and "result", where they
    differ from the usual titles. timeout: seconds for one job, from queueing. Cancelling takes
    this batch's prompts off the servers. StableVITONError where no server can run the graph, or a
    result cannot be written.
    """
    usable_servers, bindings = await _find_usable_servers(jobs, graph, servers, nodes)
    with RunState(jobs, graph, bindings, output) as state:
        pool = ServerPool(graph, bindings, timeout, state, usable_servers)
        await _run_all([asyncio.create_task(pool.run_server(server)) for server in usable_servers])
        return state.make_outcome()


async def _run_all(tasks: Sequence["asyncio.Task[None]"]) -> None:
    """Wait for all tasks; where one fails or we are cancelled, end the others first."""
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _find_usable_servers(
    jobs: Sequence[Job], graph: Graph, servers: Sequence[str], nodes: Mapping[str, str]
) -> tuple[list[str], NodeBindings]:
    """The servers that can run the graph. StableVITONError with the reasons where none can."""
    addresses = list(dict.fromkeys(server.rstrip("/") for server in servers))
    for server in addresses:
        if not server.startswith(("http://", "https://")):
            raise StableVITONError(
                f"a server is an address like http://127.0.0.1:8188, got {server!r}"
            )
    found = await asyncio.gather(*(_bind_server(jobs, graph, s, nodes) for s in addresses))
    bindings: dict[str, NodeBindings] = {}
    errors: dict[str, StableVITONError] = {}
    for server, answer in zip(addresses, found, strict=True):
        if isinstance(answer, NodeBindings):
            bindings[server] = answer
        else:
            errors[server] = answer
    if not bindings:
        at_fault = any(isinstance(error, ServerError) for error in errors.values())
        heading = "no server can run this batch." if at_fault else "this batch cannot run as it is."
        reasons = [f"{server}: {error}" for server, error in errors.items()]
        raise StableVITONError("\n".join([heading, *reasons]))
    for server, error in errors.items():
        _log.warning("Going on without %s: %s", server, error)
    return list(bindings), next(iter(bindings.values()))


async def _bind_server(
    jobs: Sequence[Job], graph: Graph, server: str, nodes: Mapping[str, str]
) -> NodeBindings | StableVITONError:
    """The bindings of the graph on a server, or why it cannot run there."""
    try:
        async with client.connect(server) as session:
            info = await client.fetch_object_info(session)
            with client.expect_valid_answer("object_info"):
                return prepare_bindings(jobs, graph, info, nodes)
    except StableVITONError as error:
        return error
    except ValueError as error:
        raise StableVITONError(f"{server!r} is no address: {error}") from error


class ServerPool:
    """Servers that share a queue of jobs."""

    def __init__(
        self,
        graph: Graph,
        bindings: NodeBindings,
        timeout: float,
        state: RunState,
        servers: Sequence[str],
    ):
        self.graph, self.bindings, self.timeout, self.state = graph, bindings, timeout, state
        self.queue = JobQueue(state.waiting, servers)
        self.changed = asyncio.Condition()  # notified whenever a job ends or a server is dropped

    async def run_server(self, server: str) -> None:
        """Keep a server busy until there is no job left for it, or it is dropped."""
        async with client.connect(server) as session:
            runner, recovering = JobRunner(session), asyncio.Lock()
            slots = [self._run_slot(server, runner, recovering) for _ in range(PROMPTS_PER_WORKER)]
            await _run_all([asyncio.create_task(slot) for slot in slots])

    async def _run_slot(self, server: str, runner: JobRunner, recovering: asyncio.Lock) -> None:
        """Run one job after the other."""
        while attempt := await self._take(server):
            job, started = attempt.job, time.time()
            graphs, contents = prepare_job(
                job, self.state.digests[job.name], self.graph, self.bindings
            )
            try:
                result = await runner.run(graphs, self.bindings, contents, self.timeout)
            except (ImageError, ServerError, PromptError) as error:
                if not self.queue.record_failure(server, attempt, error):
                    self.state.record_failure(job, server, started, attempt.error)
                await self._notify()
                if is_worker_failure(error):
                    runner.forget_uploads()
                    async with recovering:
                        await self._recover(server, runner, error)
            else:
                self.state.record_result(job, server, started, result)
                self.queue.record_success(server)
                await self._notify()

    async def _take(self, server: str) -> Attempt | None:
        """The next job for a server; None when there will be none."""
        async with self.changed:
            while not (attempt := self.queue.take(server)) and not self.queue.is_over(server):
                await self.changed.wait()
            return attempt

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def _recover(self, server: str, runner: JobRunner, error: Exception) -> None:
        """Wait until a failed server answers; drop it where it does not, or failed too often."""
        if not self.queue.has_failed_too_often(server):
            for delay in list_health_check_delays():
                await asyncio.sleep(delay)
                try:
                    await client.is_queued(runner.session, "")
                except ServerError as health_error:
                    error = health_error
                else:
                    return
        for attempt in self.queue.drop_worker(server, error):
            self.state.record_failure(attempt.job, server, time.time(), attempt.error)
        await self._notify()
