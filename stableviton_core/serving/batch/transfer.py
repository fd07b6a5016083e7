"""One job on one server: input images sent to it, the graph run, result images fetched."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import aiohttp

from ...errors import ImageError, PromptError, ServerError
from ...images import decode_image
from .. import client
from ..graph import Graph
from .jobs import Job
from .node_bindings import NodeBindings, fill_graph
from .retry_policy import PROMPTS_PER_WORKER

SUBFOLDER = "stableviton-batch"  # of the servers' input folders

Content = Callable[[], bytes]  # of a file, read when it is needed
ResultImages = list[tuple[str, bytes]]  # the server's file names and the files' contents


def hash_image(path: Path) -> str:
    """SHA-256 of an image file's bytes. ImageError where it cannot be decoded."""
    try:
        content = path.read_bytes()
        decode_image(content)
    except (OSError, ImageError) as error:
        raise ImageError(f"{path}: {error}") from error
    return hashlib.sha256(content).hexdigest()


def _read_unchanged(path: Path, digest: str) -> bytes:
    """The bytes of the file that had this SHA-256. ImageError where they are gone."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read any more: {error}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise ImageError(f"{path} has changed since the batch began. Start it again.")
    return content


def prepare_job(
    job: Job, digests: Mapping[str, str], graph: Graph, bindings: NodeBindings
) -> tuple[Graph, dict[str, Content]]:
    """The graph for a job, and the contents of its input images by upload name, which is the same
    for the same contents. digests: SHA-256 of the images by role."""
    names = {role: digests[role][:32] + file.suffix.lower() for role, file in job.images.items()}
    contents: dict[str, Content] = {
        names[role]: partial(_read_unchanged, file, digests[role])
        for role, file in job.images.items()
    }
    images = {role: f"{SUBFOLDER}/{name}" for role, name in names.items()}
    return fill_graph(graph, bindings, images, job.seed), contents


class JobRunner:
    """Runs jobs on one server; each input image is uploaded once."""

    def __init__(self, session: aiohttp.ClientSession):
        self.session = session
        self._uploaded: set[str] = set()
        self._locks: dict[str, asyncio.Lock] = {}

    async def run(
        self, graph: Graph, result_node: str, contents: Mapping[str, Content], timeout: float
    ) -> ResultImages:
        """The images of the result node. contents: of the input images, by upload name. timeout:
        seconds for one job.

        PromptError where the graph fails, takes too long or gives no image; ServerError where the
        server is gone or the results are no images.
        """
        limit = timeout * PROMPTS_PER_WORKER  # the server's other job may be run first
        try:
            return await asyncio.wait_for(self._run(graph, result_node, contents), limit)
        except asyncio.TimeoutError as error:
            raise PromptError(f"it took longer than --timeout, {timeout:.0f} s") from error

    def forget_uploads(self) -> None:
        """The server may have lost them, for example after a restart."""
        self._uploaded.clear()

    async def _run(
        self, graph: Graph, result_node: str, contents: Mapping[str, Content]
    ) -> ResultImages:
        for name, content in contents.items():
            await self._upload(name, content)
        outputs = await client.run(self.session, graph)
        with client.expect_valid_answer("history"):
            images = outputs.get(result_node, {}).get("images") or []
            files = [(str(image["filename"]), image) for image in images]
        if not files:
            raise PromptError("The graph ended without an image at the result's node.")
        return [(name, await self._download(name, file)) for name, file in files]

    async def _upload(self, name: str, content: Content) -> None:
        async with self._locks.setdefault(name, asyncio.Lock()):
            if name not in self._uploaded:
                await client.upload_bytes(self.session, content(), name, SUBFOLDER)
                self._uploaded.add(name)

    async def _download(self, name: str, file: dict[str, str]) -> bytes:
        content = await client.download(self.session, file)
        try:
            await asyncio.to_thread(decode_image, content)  # large images would block the others
        except ImageError as error:
            raise ServerError(f"The server sent {name}, but {error}") from error
        return content
