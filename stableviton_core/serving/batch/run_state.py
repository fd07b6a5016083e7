"""The state of a batch: which jobs are done, waiting or failed, in the output folder's manifest
and on a progress bar. A batch that is started again continues from it."""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ...errors import ImageError, StableVITONError
from ...files import hash_bytes, replace_atomically
from ...images import IMAGE_EXTENSIONS
from ..graph import Graph
from .jobs import Job
from .manifest import Entry, append_entry, is_done, read_manifest
from .node_bindings import NodeBindings, hash_graph
from .transfer import JobResult, ResultImages, hash_image

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """results: the first file of every job that has one, also from earlier runs, by name. failed:
    reasons by name. left: number of jobs for which there was no worker left."""

    results: dict[str, Path]
    failed: dict[str, str]
    left: int


class RunState:
    """Manifest and progress bar of a batch; a context manager.

    waiting: jobs without a result whose images can be read. digests: SHA-256 of the images, by job
    name and role. Methods raise StableVITONError where the output folder cannot be written to.
    """

    def __init__(self, jobs: Sequence[Job], graph: Graph, bindings: NodeBindings, output: Path):
        self.output, self.graph_hash = output, hash_graph(graph, bindings)
        self.total, self.failed, self.results = len(jobs), dict[str, str](), dict[str, Path]()
        with explain_write_errors(output):
            output.mkdir(parents=True, exist_ok=True)
            entries = read_manifest(output)
        self.digests, unreadable = _hash_images(jobs)
        self.waiting = []
        for job in jobs:
            if job.name in self.digests:
                entry = entries.get(job.name)
                if entry and is_done(entry, self._make_key(job), output):
                    self.results[job.name] = output / entry.files[0]
                else:
                    self.waiting.append(job)
        self._bar = tqdm(total=len(jobs), initial=len(self.results), desc="try-ons", unit="pair")
        self._logging = logging_redirect_tqdm()
        for job in jobs:
            if job.name in unreadable:
                self.record_failure(job, None, time.time(), unreadable[job.name])

    def __enter__(self) -> "RunState":
        self._logging.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        self._logging.__exit__(None, None, None)

    def record_result(self, job: Job, server: str, started: float, result: JobResult) -> None:
        """Write a job's images, then its line of the manifest."""
        files = self._write_images(job.name, result.images)
        self._append(job, server, started, files, None, result)
        if result.scores:
            _log.info(
                "%s: seed %d is the best of %d, with a score of %s",
                *(job.name, result.seed, job.candidates, result.report or result.score),
            )
        self.results[job.name] = self.output / files[0]
        self._bar.update()

    def record_failure(self, job: Job, server: str | None, started: float, reason: str) -> None:
        self._append(job, server, started, [], reason)
        self.failed[job.name] = reason
        self._bar.set_postfix(failed=len(self.failed), refresh=False)
        self._bar.update()

    def make_outcome(self) -> Outcome:
        left = self.total - len(self.results) - len(self.failed)
        return Outcome(self.results, self.failed, left)

    def _write_images(self, name: str, images: ResultImages) -> list[str]:
        """Write NAME.png, NAME~2.png, ... to the disk; their names. No job's name has a ~."""
        files = []
        for number, (server_name, content) in enumerate(images, start=1):
            ending = Path(server_name).suffix.lower()
            stem = name if number == 1 else f"{name}~{number}"
            file = self.output / (stem + (ending if ending in IMAGE_EXTENSIONS else ".png"))
            with (
                explain_write_errors(self.output),
                replace_atomically(file) as partial,
                partial.open("wb") as opened,
            ):
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
            files.append(file.name)
        return files

    def _make_key(self, job: Job) -> str:
        """The same for the same images' contents, seed and graph."""
        digests: Mapping[str, str] = self.digests.get(job.name, {})
        parts = [f"{role}={digests[role]}" for role in sorted(digests)]
        if job.candidates > 1:
            parts.append(f"best_of={job.candidates}")
        text = "|".join([job.name, self.graph_hash, str(job.seed), *parts])
        return hash_bytes(text.encode())

    def _append(
        self,
        job: Job,
        server: str | None,
        started: float,
        files: list[str],
        error: str | None,
        result: JobResult | None = None,
    ) -> None:
        entry = Entry(
            pair=job.name,
            key=self._make_key(job),
            person=str(job.images["person"]),
            garment=str(job.images["garment"]),
            seed=job.seed,
            graph=self.graph_hash,
            server=server,
            started=round(started, 3),
            seconds=round(time.time() - started, 3),
            files=files,
            error=error,
            kept_seed=result.seed if result and result.score is not None else None,
            score=result.score if result else None,
            report=result.report if result else None,
            scores=result.scores if result else None,
            sizes=[len(content) for _, content in result.images] if result else None,
            sha256=[hash_bytes(content) for _, content in result.images] if result else None,
        )
        with explain_write_errors(self.output):
            append_entry(self.output, entry)


@contextmanager
def explain_write_errors(output: Path) -> Iterator[None]:
    """Turn OSError while writing to the output folder into StableVITONError."""
    try:
        yield
    except OSError as error:
        raise StableVITONError(
            f"{output} cannot be written to: {error}. Make room and start again; what is done is "
            "not made again."
        ) from error


def _hash_images(jobs: Sequence[Job]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """SHA-256 of every job's images, by job name and role; and by job name, why images of the
    other jobs cannot be read."""
    digests_by_path: dict[Path, str] = {}
    errors_by_path: dict[Path, str] = {}
    digests, errors = {}, {}
    for job in tqdm(jobs, desc="reading images", mininterval=1):
        for path in job.images.values():
            if path not in digests_by_path and path not in errors_by_path:
                try:
                    digests_by_path[path] = hash_image(path)
                except ImageError as error:
                    errors_by_path[path] = str(error)
        reasons = [errors_by_path[path] for path in job.images.values() if path in errors_by_path]
        if reasons:
            errors[job.name] = "; ".join(reasons)
        else:
            digests[job.name] = {role: digests_by_path[p] for role, p in job.images.items()}
    return digests, errors
