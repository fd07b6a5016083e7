"""Where a batch stands: what is done, what is to do, and what failed and why."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ...errors import ImageError, StableVITONError
from ...files import replace_atomically
from ...images import IMAGE_EXTENSIONS
from ..graph import Graph
from . import manifest
from .jobs import Job
from .manifest import Entry
from .uploads import digest_of
from .wiring import Wiring, graph_hash


@dataclass(frozen=True)
class Outcome:
    """results: the first file of every job that has one, also from earlier runs, by name. failed:
    names and reasons. left: jobs that no server was left for."""

    results: dict[str, Path]
    failed: dict[str, str]
    left: int


class Ledger:
    """A batch's manifest and progress bar. `todo`: the jobs without a result whose pictures can be
    read. `digests`: of pictures, by job's name and role."""

    def __init__(self, jobs: Sequence[Job], graph: Graph, wiring: Wiring, output: Path):
        self.output, self.graph_hash = output, graph_hash(graph, wiring)
        self.total, self.failures, self.results = len(jobs), dict[str, str](), dict[str, Path]()
        with written(output):
            output.mkdir(parents=True, exist_ok=True)
            known = manifest.read(output)
        self.digests, unreadable = _digests(jobs)
        self.todo = []
        for job in jobs:
            if job.name in self.digests:
                entry = known.get(job.name)
                if entry and manifest.is_done(entry, self._key(job), output):
                    self.results[job.name] = output / entry.files[0]
                else:
                    self.todo.append(job)
        self._bar = tqdm(total=len(jobs), initial=len(self.results), desc="try-ons", unit="pair")
        self._redirected = logging_redirect_tqdm()
        for job in jobs:
            if job.name in unreadable:
                self.failed(job, None, time.time(), unreadable[job.name])

    def __enter__(self) -> "Ledger":
        self._redirected.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        self._redirected.__exit__(None, None, None)

    def finished(self, job: Job, server: str, started: float, files: list[str]) -> None:
        self._append(job, server, started, files, None)
        self.results[job.name] = self.output / files[0]
        self._bar.update()

    def failed(self, job: Job, server: str | None, started: float, reason: str) -> None:
        self._append(job, server, started, [], reason)
        self.failures[job.name] = reason
        self._bar.set_postfix(failed=len(self.failures), refresh=False)
        self._bar.update()

    def outcome(self) -> Outcome:
        left = self.total - len(self.results) - len(self.failures)
        return Outcome(self.results, self.failures, left)

    def _key(self, job: Job) -> str:
        return manifest.key_of(job, self.digests.get(job.name, {}), self.graph_hash)

    def _append(
        self, job: Job, server: str | None, started: float, files: list[str], error: str | None
    ) -> None:
        entry = Entry(
            pair=job.name,
            key=self._key(job),
            person=str(job.pictures["person"]),
            garment=str(job.pictures["garment"]),
            seed=job.seed,
            graph=self.graph_hash,
            server=server,
            started=round(started, 3),
            seconds=round(time.time() - started, 3),
            files=files,
            error=error,
        )
        with written(self.output):
            manifest.append(self.output, entry)


@contextmanager
def written(output: Path) -> Iterator[None]:
    """StableVITONError where what is written inside cannot be."""
    try:
        yield
    except OSError as error:
        raise StableVITONError(
            f"{output} cannot be written to: {error}. Make room and start again; what is done is "
            "not made again."
        ) from error


def roles_of(jobs: Sequence[Job]) -> list[str]:
    return sorted({role for job in jobs for role in job.pictures})


def _digests(jobs: Sequence[Job]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """By job: its pictures' digests, or why one cannot be read."""
    known: dict[Path, str] = {}
    unreadable: dict[Path, str] = {}
    digests, failed = {}, {}
    for job in tqdm(jobs, desc="reading pictures", mininterval=1):
        for path in job.pictures.values():
            if path not in known and path not in unreadable:
                try:
                    known[path] = digest_of(path)
                except ImageError as error:
                    unreadable[path] = str(error)
        reasons = [unreadable[path] for path in job.pictures.values() if path in unreadable]
        if reasons:
            failed[job.name] = "; ".join(reasons)
        else:
            digests[job.name] = {role: known[path] for role, path in job.pictures.items()}
    return digests, failed


def write_results(output: Path, name: str, pictures: Sequence[tuple[str, bytes]]) -> list[str]:
    """Write a job's pictures (a server's file name and the contents) as NAME.png, NAME~2.png ...;
    the files' names. They are on the disk when this returns."""
    files = []
    for number, (server_file, content) in enumerate(pictures, start=1):
        ending = Path(server_file).suffix.lower()
        stem = name if number == 1 else f"{name}~{number}"  # no job's name has a ~
        file = output / (stem + (ending if ending in IMAGE_EXTENSIONS else ".png"))
        with written(output), replace_atomically(file) as partial, partial.open("wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        files.append(file.name)
    return files
