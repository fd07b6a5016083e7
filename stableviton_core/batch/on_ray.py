"""A batch on a Ray cluster: one actor a GPU (or a share of the CPUs), each with a ComfyUI of its
own. Ray places the actors, starts them again when they die, and runs their jobs again."""

import asyncio
import os
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..serving import client
from ..serving.errors import PromptError, ServerError
from ..serving.graph import Graph
from .jobs import BatchError, Job
from .ledger import Ledger, Outcome, roles_of, write_results
from .run import DEPTH, checked_wiring, results
from .servers import own_server
from .uploads import SUBFOLDER
from .wiring import Wiring, filled

RETRIES = 3  # of a job whose actor or server died


@dataclass(frozen=True)
class Cluster:
    """address: "" for one on this machine. actors: None for one a GPU, or one without a GPU.
    comfyui: its folder, the same on every machine."""

    address: str
    actors: int | None
    comfyui: Path


def run_on_ray(
    jobs: Sequence[Job], graph: Graph, cluster: Cluster, output: Path, nodes: Mapping[str, str],
    timeout: float,
) -> Outcome:  # fmt: skip
    """As `run.run_batch`, with the same names and manifest. BatchError where Ray is not installed,
    or its servers cannot run the graph."""
    try:
        import ray
    except ImportError as error:
        raise BatchError("--ray needs the package: pip install -e .[ray]") from error
    ray.init(address=cluster.address or None, log_to_driver=False)
    try:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        count = cluster.actors or max(1, gpus)
        worker = ray.remote(
            num_gpus=1 if gpus else 0, num_cpus=1, max_restarts=-1, max_task_retries=RETRIES,
            max_concurrency=DEPTH,
        )(Worker)  # fmt: skip
        actors = [worker.remote(str(cluster.comfyui), bool(gpus)) for _ in range(count)]
        info = ray.get(actors[0].info.remote())
        wiring = checked_wiring(graph, info, roles_of(jobs), nodes)
        with Ledger(jobs, graph, wiring, output) as ledger:
            _distribute(ray, actors, ledger, graph, wiring, timeout)
            return ledger.outcome()
    except ray.exceptions.RayError as error:
        raise BatchError(f"Ray: {_reason(error)}") from error
    finally:
        ray.shutdown()


def _distribute(
    ray: Any, actors: Sequence[Any], ledger: Ledger, graph: Graph, wiring: Wiring, timeout: float
) -> None:
    """Give every actor DEPTH jobs, and another for each that ends."""
    waiting = deque(ledger.todo)
    running: dict[Any, tuple[Any, Job, float]] = {}
    contents: dict[str, Any] = {}

    def picture(path: Path, digest: str) -> Any:
        if digest not in contents:
            contents[digest] = ray.put(path.read_bytes())
        return contents[digest]

    def start(actor: Any) -> None:
        if not waiting:
            return
        job = waiting.popleft()
        digests = ledger.digests[job.name]
        pictures = {
            role: (digests[role][:32] + path.suffix.lower(), picture(path, digests[role]))
            for role, path in job.pictures.items()
        }
        names = {role: name for role, (name, _) in pictures.items()}
        images = {role: f"{SUBFOLDER}/{name}" for role, name in names.items()}
        own = filled(graph, wiring, images, job.seed)
        reference = actor.run.remote(
            own, wiring.result, list(names.values()), timeout,
            *(content for _, content in pictures.values()),
        )  # fmt: skip
        running[reference] = (actor, job, time.time())

    for _ in range(DEPTH):
        for actor in actors:
            start(actor)
    while running:
        (reference,), _ = ray.wait(list(running), num_returns=1)
        actor, job, started = running.pop(reference)
        try:
            server, pictures = ray.get(reference)
        except ray.exceptions.RayError as error:
            ledger.failed(job, None, started, _reason(error))
        else:
            files = write_results(ledger.output, job.name, pictures)
            ledger.finished(job, server, started, files)
        start(actor)


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
        self.sent: set[str] = set()

    async def info(self) -> dict[str, Any]:
        async with client.connect(self.server.url) as session:
            return await client.object_info(session)

    async def run(
        self, graph: Graph, node: str, names: Sequence[str], timeout: float, *contents: bytes
    ) -> tuple[str, list[tuple[str, bytes]]]:
        """The server's address, and names and contents of one node's pictures. Ends the actor when
        its server is gone, for Ray to start both again. PromptError where the graph fails."""
        try:
            async with client.connect(self.server.url) as session:
                for name, content in zip(names, contents, strict=True):
                    if name not in self.sent:
                        await client.upload_content(session, content, name, SUBFOLDER)
                        self.sent.add(name)
                made = await asyncio.wait_for(results(session, graph, node), timeout)
        except asyncio.TimeoutError as error:
            raise PromptError(f"it took longer than --timeout, {timeout:.0f} s") from error
        except ServerError:
            if self.server.process.poll() is not None:
                os._exit(1)
            raise
        return self.server.url, made
