"""A batch on a Ray cluster: one actor per GPU, or one in all where there is no GPU, each with its
ComfyUI. Ray places the actors, restarts those that die and runs their calls again."""

import os
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import ImageError, ServerError, StableVITONError
from .. import client
from ..graph import Graph
from ..process import start_server
from .jobs import Job
from .node_bindings import NodeBindings, prepare_bindings
from .retry_policy import PROMPTS_PER_WORKER, RAY_RETRIES, Attempt, JobQueue
from .run_state import Outcome, RunState
from .transfer import JobResult, JobRunner, prepare_job

# Whether Ray's processes listen on more than 127.0.0.1; on Linux it is on by default.
OTHER_MACHINES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
STARTUP_TIMEOUT = 600.0  # seconds for all servers to come up


@dataclass(frozen=True)
class Cluster:
    """address: "" for one on this machine. actors: None for one per GPU, or one without a GPU.
    comfyui: ComfyUI's folder, the same on every machine."""

    address: str
    actors: int | None
    comfyui: Path


def run_on_ray(
    jobs: Sequence[Job],
    graph: Graph,
    cluster: Cluster,
    output: Path,
    nodes: Mapping[str, str],
    timeout: float,
) -> Outcome:
    """As `server_pool.run_batch`, with the same file names and manifest. StableVITONError where Ray
    is not reached, has too few GPUs, or its servers cannot run the graph."""
    ray = _start_ray(cluster.address)
    try:
        infos = _await_servers(ray, _create_actors(ray, cluster))
        bindings = prepare_bindings(jobs, graph, next(iter(infos.values())), nodes)
        with RunState(jobs, graph, bindings, output) as state:
            _distribute_jobs(ray, list(infos), state, graph, bindings, timeout)
            outcome = state.make_outcome()
        with suppress(ray.exceptions.RayError):
            ray.get([actor.stop.remote() for actor in infos], timeout=60)
        return outcome
    except ray.exceptions.RayError as error:
        raise StableVITONError(f"Ray: {_find_cause(error)}") from error
    finally:
        ray.shutdown()


def _start_ray(address: str) -> Any:
    """The package ray, connected. A cluster on this machine, for an empty address, is reached from
    this machine alone and has no dashboard. Ray reports usage only where the user's variable
    RAY_USAGE_STATS_ENABLED asks for it. StableVITONError where no cluster is reached."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not address:
        os.environ[OTHER_MACHINES] = "0"  # is read when ray is imported
    import ray

    handler = signal.getsignal(signal.SIGTERM)
    cluster = {"address": address} if address else {"address": "local", "include_dashboard": False}
    try:
        ray.init(log_to_driver=False, **cluster)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise StableVITONError(f"no Ray cluster at {address!r}: {error}") from error
    signal.signal(signal.SIGTERM, handler)  # ray.init replaces it
    return ray


def _create_actors(ray: Any, cluster: Cluster) -> list[Any]:
    """StableVITONError where the cluster has too few GPUs, or CPUs where it has no GPU."""
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    count = cluster.actors or max(1, gpus)
    available, kind = (gpus, "GPUs") if gpus else (cpus, "CPUs")
    if count > available:
        raise StableVITONError(
            f"--ray-actors {count} is more than the cluster's {available} {kind}."
        )
    actor_class = ray.remote(
        num_gpus=1 if gpus else 0,
        num_cpus=1 if not gpus else 0,
        max_restarts=-1,
        max_task_retries=RAY_RETRIES,
        max_concurrency=PROMPTS_PER_WORKER,
    )(Worker)
    return [actor_class.remote(str(cluster.comfyui), bool(gpus)) for _ in range(count)]


def _await_servers(ray: Any, actors: Sequence[Any]) -> dict[Any, dict[str, Any]]:
    """The object_info of the actors whose server came up. StableVITONError where none did."""
    references = {actor.fetch_object_info.remote(): actor for actor in actors}
    ended, _ = ray.wait(list(references), num_returns=len(references), timeout=STARTUP_TIMEOUT)
    infos, reasons = {}, []
    for reference in ended:
        try:
            infos[references[reference]] = ray.get(reference)
        except ray.exceptions.RayError as error:
            reasons.append(str(_find_cause(error)))
    if not infos:
        raise StableVITONError("no server came up on the cluster. " + "\n".join(reasons))
    return infos


def _distribute_jobs(
    ray: Any,
    actors: list[Any],
    state: RunState,
    graph: Graph,
    bindings: NodeBindings,
    timeout: float,
) -> None:
    """Give every actor PROMPTS_PER_WORKER jobs, and another one for each that ends."""
    names = {actor: f"actor {index}" for index, actor in enumerate(actors)}
    queue = JobQueue(state.waiting, names.values())
    running: dict[Any, tuple[Any, Attempt, float]] = {}  # actor, attempt, start by reference

    def handle_failure(actor: Any, attempt: Attempt, started: float, error: Exception) -> None:
        name = names[actor]
        if not queue.record_failure(name, attempt, error):
            state.record_failure(attempt.job, name, started, attempt.error)
        if queue.has_failed_too_often(name):
            for given_up in queue.drop_worker(name, error):
                state.record_failure(given_up.job, name, time.time(), given_up.error)

    def start_job(actor: Any) -> None:
        while attempt := queue.take(names[actor]):
            job, started = attempt.job, time.time()
            graphs, contents = prepare_job(job, state.digests[job.name], graph, bindings)
            try:
                data = {name: read_content() for name, read_content in contents.items()}
            except ImageError as error:
                handle_failure(actor, attempt, started, error)
            else:
                reference = actor.run.remote(graphs, bindings, data, timeout)
                running[reference] = (actor, attempt, started)
                return

    def fill_actors() -> None:
        for actor in actors:
            for _ in range(PROMPTS_PER_WORKER - sum(a is actor for a, _, _ in running.values())):
                start_job(actor)

    fill_actors()
    while running:
        (reference,), _ = ray.wait(list(running), num_returns=1)
        actor, attempt, started = running.pop(reference)
        try:
            server, result = ray.get(reference)
        except ray.exceptions.RayError as error:
            handle_failure(actor, attempt, started, _find_cause(error))
        else:
            queue.record_success(names[actor])
            state.record_result(attempt.job, server, started, result)
        fill_actors()


def _find_cause(error: Exception) -> Exception:
    """What a remote call raised, without Ray's traceback."""
    return getattr(error, "cause", None) or error


class Worker:
    """An actor: a ComfyUI and the jobs on it."""

    def __init__(self, comfyui: str, gpu: bool):
        # Ray sets it to the actor's CPUs; another number of threads changes the rounding
        os.environ.pop("OMP_NUM_THREADS", None)
        self.stack = ExitStack()
        base = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="stableviton-")))
        # Ray shows an actor only its own GPU
        self.server = self.stack.enter_context(start_server(Path(comfyui), base, 0, int(gpu)))
        self.runner: JobRunner | None = None

    async def fetch_object_info(self) -> dict[str, Any]:
        async with client.connect(self.server.url) as session:
            return await client.fetch_object_info(session)

    async def run(
        self,
        graphs: Mapping[int, Graph],
        bindings: NodeBindings,
        contents: Mapping[str, bytes],
        timeout: float,
    ) -> tuple[str, JobResult]:
        """The server's address and the result, as `JobRunner.run`. Where its server is gone, the
        actor ends, and Ray starts both again."""
        if self.runner is None:  # its session belongs to the event loop that runs this
            self.runner = JobRunner(client.connect(self.server.url))
        readers = {name: partial(bytes, content) for name, content in contents.items()}
        try:
            return self.server.url, await self.runner.run(graphs, bindings, readers, timeout)
        except ServerError:
            if self.server.process.poll() is not None:
                self.stack.close()
                os._exit(1)
            self.runner.forget_uploads()
            raise

    async def stop(self) -> None:
        if self.runner is not None:
            await self.runner.session.close()
        self.stack.close()
