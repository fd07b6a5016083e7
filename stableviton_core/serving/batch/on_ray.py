"""A batch on a Ray cluster: one actor a GPU (or a share of the CPUs), each with a ComfyUI of its
own. Ray garment_coordinates the actors, starts them again when they die, and runs their jobs again."""

import asyncio
import logging
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

from ...errors import ImageError, PromptError, ServerError, StableVITONError
from .. import client
from ..graph import Graph
from .jobs import Job
from .ledger import Ledger, Outcome, write_results
from .pool import Attempt, Queue
from .run import DEPTH, STRIKES, checked_wiring, results
from .servers import own_server
from .uploads import SUBFOLDER, Uploads, content_of, name_of
from .wiring import Wiring, filled

_log = logging.getLogger(__name__)

RETRIES = 3  # of a job whose actor or server died, by Ray
STARTUP = 600.0  # seconds for all servers to come up


@dataclass(frozen=True)
class Cluster:
    """address: "" for one on this machine. actors: None for one a GPU, or one without a GPU.
    comfyui: its folder, the same on every machine."""

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
    """As `run.run_batch`, with the same names and manifest. StableVITONError where Ray is not installed
    or reached, has not the room, or its servers cannot run the graph."""
    try:
        import ray
    except ImportError as error:
        raise StableVITONError("--ray needs the package: pip install -e .[ray]") from error
    own_handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=cluster.address or None, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise StableVITONError(f"no Ray cluster at {cluster.address!r}: {error}") from error
    signal.signal(signal.SIGTERM, own_handler)  # Ray has set its own
    try:
        actors = _actors(ray, cluster)
        infos = _started(ray, actors)
        wiring = checked_wiring(jobs, graph, next(iter(infos.values())), nodes)
        with Ledger(jobs, graph, wiring, output) as ledger:
            _distribute(ray, list(infos), ledger, graph, wiring, timeout)
            outcome = ledger.outcome()
        with suppress(ray.exceptions.RayError):
            ray.get([actor.stop.remote() for actor in infos], timeout=60)
        return outcome
    except ray.exceptions.RayError as error:
        raise StableVITONError(f"Ray: {_reason(error)}") from error
    finally:
        ray.shutdown()


def _actors(ray: Any, cluster: Cluster) -> list[Any]:
    """StableVITONError where the cluster has not so many GPUs, or CPUs where it has no GPU."""
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    count = cluster.actors or max(1, gpus)
    room, kind = (gpus, "GPUs") if gpus else (cpus, "CPUs")
    if count > room:
        raise StableVITONError(f"--ray-actors {count} is more than the cluster's {room} {kind}.")
    worker = ray.remote(
        num_gpus=1 if gpus else 0,
        num_cpus=1 if not gpus else 0,
        max_restarts=-1,
        max_task_retries=RETRIES,
        max_concurrency=DEPTH,
    )(Worker)
    return [worker.remote(str(cluster.comfyui), bool(gpus)) for _ in range(count)]


def _started(ray: Any, actors: Sequence[Any]) -> dict[Any, dict[str, Any]]:
    """The object_info of those whose server came up. StableVITONError where none did."""
    references = {actor.info.remote(): actor for actor in actors}
    ended, _ = ray.wait(list(references), num_returns=len(references), timeout=STARTUP)
    infos, reasons = {}, []
    for reference in ended:
        try:
            infos[references[reference]] = ray.get(reference)
        except ray.exceptions.RayError as error:
            reasons.append(_reason(error))
    if not infos:
        raise StableVITONError("no server came up on the cluster. " + "\n".join(reasons))
    return infos


def _distribute(
    ray: Any, actors: list[Any], ledger: Ledger, graph: Graph, wiring: Wiring, timeout: float
) -> None:
    """Give every actor DEPTH jobs, and another for each that ends. An actor that fails too often
    gets none."""
    names = {actor: f"actor {index}" for index, actor in enumerate(actors)}
    queue = Queue(ledger.todo, names.values())
    strikes = dict.fromkeys(actors, 0)
    running: dict[Any, tuple[Any, Attempt, float]] = {}

    def start(actor: Any) -> None:
        while attempt := queue.next(names[actor]):
            try:
                reference = _submit(actor, attempt.job, ledger, graph, wiring, timeout)
            except ImageError as error:
                ledger.failed(attempt.job, None, time.time(), str(error))
            else:
                running[reference] = (actor, attempt, time.time())
                return

    def fill() -> None:
        for actor in actors:
            for _ in range(DEPTH - sum(busy is actor for busy, _, _ in running.values())):
                start(actor)

    fill()
    while running:
        (reference,), _ = ray.wait(list(running), num_returns=1)
        actor, attempt, started = running.pop(reference)
        try:
            server, pictures = ray.get(reference)
        except ray.exceptions.RayError as error:
            attempt.error = _reason(error)
            if isinstance(getattr(error, "cause", None), PromptError):
                attempt.failed_on.add(names[actor])
                strikes[actor] = 0
            else:
                strikes[actor] += 1
            if not queue.put_back(attempt):
                ledger.failed(attempt.job, names[actor], started, attempt.error)
            if strikes[actor] == STRIKES:
                _log.warning("%s is given up: %s", names[actor], attempt.error)
                for lost in queue.leave(names[actor]):
                    ledger.failed(lost.job, names[actor], time.time(), lost.error)
        else:
            strikes[actor] = 0
            files = write_results(ledger.output, attempt.job.name, pictures)
            ledger.finished(attempt.job, server, started, files)
        fill()


def _submit(
    actor: Any, job: Job, ledger: Ledger, graph: Graph, wiring: Wiring, timeout: float
) -> Any:
    digests = ledger.digests[job.name]
    names = {role: name_of(path, digests[role]) for role, path in job.pictures.items()}
    contents = {names[role]: content_of(path, digests[role]) for role, path in job.pictures.items()}
    images = {role: f"{SUBFOLDER}/{name}" for role, name in names.items()}
    own = filled(graph, wiring, images, job.seed)
    return actor.run.remote(own, wiring.result, contents, timeout)


def _reason(error: Exception) -> str:
    """What a remote job raised, without Ray's traceback."""
    cause = getattr(error, "cause", None) or error
    return str(cause) or type(cause).__name__


class Worker:
    """An actor: a ComfyUI, and the jobs on it."""

    def __init__(self, comfyui: str, gpu: bool):
        # Ray sets it to the actor's CPUs, and another number of threads rounds differently
        os.environ.pop("OMP_NUM_THREADS", None)
        self.stack = ExitStack()
        base = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="stableviton-")))
        # Ray shows an actor its own GPU only
        self.server = self.stack.enter_context(own_server(Path(comfyui), base, 0, int(gpu)))
        self.uploads: Uploads | None = None

    async def info(self) -> dict[str, Any]:
        async with client.connect(self.server.url) as session:
            return await client.object_info(session)

    async def run(
        self, graph: Graph, node: str, contents: Mapping[str, bytes], timeout: float
    ) -> tuple[str, list[tuple[str, bytes]]]:
        """The server's address, and names and contents of one node's pictures. contents: of the
        pictures to send, by name. Ends the actor when its server is gone, for Ray to start both
        again. PromptError where the graph fails."""
        if self.uploads is None:
            self.uploads = Uploads(client.new_session(self.server.url))
        uploads = self.uploads
        try:
            for name, content in contents.items():
                await uploads.send(name, partial(bytes, content))
            work = results(uploads.session, graph, node)
            made = await asyncio.wait_for(work, timeout * DEPTH)
        except asyncio.TimeoutError as error:
            raise PromptError(f"it took longer than --timeout, {timeout:.0f} s") from error
        except ServerError:
            if self.server.process.poll() is not None:
                self.stack.close()
                os._exit(1)
            raise
        return self.server.url, made

    async def stop(self) -> None:
        if self.uploads is not None:
            await self.uploads.session.close()
        self.stack.close()
