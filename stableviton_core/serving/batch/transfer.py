"""One job on one server: input images sent to it, the graph run, result images fetched."""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean

import aiohttp

from ...errors import ImageError, PromptError, ServerError
from ...files import hash_bytes
from ...images import IMAGE_EXTENSIONS, decode_image, explain_image_file, read_file
from .. import client
from ..graph import Graph
from .jobs import Job
from .node_bindings import SCORE_CLASS, NodeBindings, fill_graph
from .retry_policy import PROMPTS_PER_WORKER

MAX_IMAGES = 256  # of one result
SUBFOLDER = "stableviton-batch"  # of the servers' input folders

Content = Callable[[], bytes]  # of a file, read when it is needed
ResultImages = list[tuple[str, bytes]]  # the server's file names and the files' contents


@dataclass(frozen=True)
class JobResult:
    """seed: of the images. score: of the images, and report, what it consists of; None where the
    graph has no node that scores. scores: of all seeds that were tried."""

    images: ResultImages
    seed: int
    score: float | None = None
    report: str | None = None
    scores: Mapping[int, float] | None = None


def hash_image(path: Path) -> str:
    """SHA-256 of an image file's bytes. ImageError where it cannot be decoded."""
    with explain_image_file(path):
        content = read_file(path)
        decode_image(content)
    return hash_bytes(content)


def _read_unchanged(path: Path, digest: str) -> bytes:
    """The bytes of the file that had this SHA-256. ImageError where they are gone."""
    try:
        content = read_file(path)
    except (OSError, ImageError) as error:
        raise ImageError(f"{path} cannot be read any more: {error}") from error
    if hash_bytes(content) != digest:
        raise ImageError(f"{path} has changed since the batch began. Start it again.")
    return content


def prepare_job(
    job: Job, digests: Mapping[str, str], graph: Graph, bindings: NodeBindings
) -> tuple[dict[int, Graph], dict[str, Content]]:
    """The graphs for a job by seed, and the contents of its input images by upload name, which is
    the same for the same contents. digests: SHA-256 of the images by role."""
    names = {role: digests[role][:32] + file.suffix.lower() for role, file in job.images.items()}
    contents: dict[str, Content] = {
        names[role]: partial(_read_unchanged, file, digests[role])
        for role, file in job.images.items()
    }
    images = {role: f"{SUBFOLDER}/{name}" for role, name in names.items()}
    return {seed: fill_graph(graph, bindings, images, seed) for seed in job.seeds}, contents


def choose_best(results: Sequence[JobResult]) -> JobResult:
    """The result with the best score, the first of equals, and all scores. One without a score is
    the worst. PromptError where there are several and none has a score."""
    if len(results) == 1:
        return results[0]
    scores = {result.seed: result.score for result in results if result.score is not None}
    if not scores:
        raise PromptError(f"The graph ended without a score at the {SCORE_CLASS} node.")
    best = max(results, key=lambda result: scores.get(result.seed, -math.inf))
    return replace(best, scores=scores)


class JobRunner:
    """Runs jobs on one server; each input image is uploaded once."""

    def __init__(self, session: aiohttp.ClientSession):
        self.session = session
        self._uploaded: set[str] = set()
        self._locks: dict[str, asyncio.Lock] = {}

    async def run(
        self,
        graphs: Mapping[int, Graph],
        bindings: NodeBindings,
        contents: Mapping[str, Content],
        timeout: float,
    ) -> JobResult:
        """The images of the result node; of several graphs, those with the best score. graphs: by
        seed. contents: of the input images, by upload name. timeout: seconds for one graph.

        PromptError where a graph fails, takes too long or gives no image or no score; ServerError
        where the server is gone or the results are no images.
        """
        limit = timeout * PROMPTS_PER_WORKER  # the server's other job may be run first
        results = []
        for seed, graph in graphs.items():
            try:
                result = self._run(seed, graph, bindings, contents)
                results.append(await asyncio.wait_for(result, limit))
            except asyncio.TimeoutError as error:
                raise PromptError(f"it took longer than --timeout, {timeout:.0f} s") from error
        return choose_best(results)

    def forget_uploads(self) -> None:
        """The server may have lost them, for example after a restart."""
        self._uploaded.clear()

    async def _run(
        self, seed: int, graph: Graph, bindings: NodeBindings, contents: Mapping[str, Content]
    ) -> JobResult:
        for name, content in contents.items():
            await self._upload(name, content)
        outputs = await client.run(self.session, graph)
        with client.expect_valid_answer("history"):
            images = outputs.get(bindings.result, {}).get("images") or []
            files = [(str(image["filename"]), image) for image in images]
            scored = outputs.get(bindings.score or "", {})
            scores = [float(score) for score in scored.get("score", [])]
            score = fmean(scores) if scores else None
            report = "\n".join(map(str, scored.get("text", []))) or None
        if not 1 <= len(files) <= MAX_IMAGES:
            raise PromptError(
                f"The graph ended with {len(files)} images at the result's node; 1 to {MAX_IMAGES} "
                "are fetched."
            )
        downloads = [(name, await self._download(name, file)) for name, file in files]
        if score is not None and not math.isfinite(score):  # of an image with NaN
            score = None
        return JobResult(downloads, seed, score, report)

    async def _upload(self, name: str, content: Content) -> None:
        async with self._locks.setdefault(name, asyncio.Lock()):
            if name not in self._uploaded:
                await client.upload_bytes(self.session, content(), name, SUBFOLDER)
                self._uploaded.add(name)

    async def _download(self, name: str, file: dict[str, str]) -> bytes:
        if Path(name).suffix.lower() not in IMAGE_EXTENSIONS:
            raise PromptError(
                f"The result's node saves {name}; results are {', '.join(IMAGE_EXTENSIONS)}, as "
                "Save Image writes them."
            )
        content = await client.download(self.session, file)
        try:
            await asyncio.to_thread(decode_image, content)  # large images would block the others
        except ImageError as error:
            raise ServerError(f"The server sent {name}, but {error}") from error
        return content
