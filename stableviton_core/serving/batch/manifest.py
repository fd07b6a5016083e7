"""What became of every job, a line of JSON each: the record that a batch goes on from."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from .jobs import Job

FILE = "manifest.jsonl"


@dataclass(frozen=True)
class Entry:
    """pair: the job's name. key: of its pictures' contents, seed and graph. server: its address.
    started: seconds since 1970. seconds: from queueing to the written file. files: of the result,
    in the output folder. error: why there is none."""

    pair: str
    key: str
    person: str
    garment: str
    seed: int
    graph: str
    server: str | None
    started: float
    seconds: float
    files: list[str]
    error: str | None


def key_of(job: Job, digests: Mapping[str, str], graph: str) -> str:
    """The same for the same contents (digests by role), seed and graph."""
    parts = [f"{role}={digests[role]}" for role in sorted(digests)]
    return hashlib.sha256("|".join([job.name, graph, str(job.seed), *parts]).encode()).hexdigest()


def read(output: Path) -> dict[str, Entry]:
    """The last success of every pair: what its file holds now. A line that a kill has cut off
    counts as not there."""
    file = output / FILE
    if not file.is_file():
        return {}
    entries = {}
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            entry = Entry(**json.loads(line))
        except (ValueError, TypeError):
            continue
        if entry.error is None:
            entries[entry.pair] = entry
    return entries


def is_done(entry: Entry, key: str, output: Path) -> bool:
    """Whether a pair's last success is of this key, and its files are there."""
    return (
        entry.key == key
        and bool(entry.files)
        and all((output / name).is_file() for name in entry.files)
    )


def append(output: Path, entry: Entry) -> None:
    """On the disk when this returns, on a line of its own even after one that was cut off."""
    file = output / FILE
    cut_off = file.is_file() and file.stat().st_size > 0 and _last_byte(file) != b"\n"
    with file.open("ab") as opened:
        line = json.dumps(asdict(entry))
        opened.write((b"\n" if cut_off else b"") + line.encode() + b"\n")
        opened.flush()
        os.fsync(opened.fileno())


def _last_byte(file: Path) -> bytes:
    with file.open("rb") as opened:
        opened.seek(-1, os.SEEK_END)
        return opened.read(1)
