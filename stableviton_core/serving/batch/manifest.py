"""The manifest of an output folder: a line of JSON for every job that ended. What it says about the
folder is checked, for it may have been damaged, or come from elsewhere."""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ...errors import MALFORMED
from ...files import hash_file

MANIFEST = "manifest.jsonl"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A line of the manifest: one job that ended. Its keys are a file format; do not rename them.

    pair: the job's name. key: hash of its images' contents, seed and graph. server: address, or
    None where none was reached. started: seconds since 1970. seconds: from queueing to the written
    file. files: names in the output folder; sizes, sha256: their bytes and hashes. error: why there
    is no result. Where the graph scores results: score, what it consists of (report), the seed that
    was kept, and with --best-of the scores of all seeds.
    """

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
    kept_seed: int | None = None
    score: float | None = None
    report: str | None = None
    scores: Mapping[int, float] | None = None  # in the file, keys are text
    sizes: list[int] | None = None
    sha256: list[str] | None = None


def read_manifest(output: Path) -> dict[str, Entry]:
    """The last success of every job: what its file holds now. Lines that are none of a batch, such
    as one that was cut off when the process was killed, are skipped with a warning; so is a
    manifest that is a link, which the next line replaces."""
    file = output / MANIFEST
    if file.is_symlink():
        _log.warning("%s is a link: it is not read, and replaced.", file)
        return {}
    if not file.is_file():
        return {}
    entries, skipped = {}, []
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            entry = parse_entry(line)
        except MALFORMED as error:
            if line.strip():
                skipped.append(f"line {number} ({str(error)[:100]})")
            continue
        if entry.error is None:
            entries[entry.pair] = entry
    if skipped:
        more = f" and {len(skipped) - 3} more" if len(skipped) > 3 else ""
        _log.warning("%s: skipped %s%s.", file, ", ".join(skipped[:3]), more)
    return entries


def parse_entry(line: str) -> Entry:
    """An entry of the manifest. Errors of MALFORMED for any other line: another object, values of
    other types, files outside the folder."""
    entry = Entry(**json.loads(line))
    lists = {"files": entry.files, "sha256": [] if entry.sha256 is None else entry.sha256}
    for name, values in lists.items():
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise TypeError(f"{name} is a list of texts")
    if not isinstance(entry.pair, str) or not isinstance(entry.key, str):
        raise TypeError("pair and key are texts")
    if not all(_is_plain_name(name) for name in entry.files):
        raise ValueError("files are names in the output folder")
    return entry


def _is_plain_name(name: str) -> bool:
    """Whether a name is that of a file in the folder itself, on every system."""
    return bool(name.strip(".")) and not set(name) & {"/", "\\", "\0"}


def append_entry(output: Path, entry: Entry) -> None:
    """Write a line to the disk, on a line of its own even after one that was cut off."""
    file = output / MANIFEST
    if file.is_symlink():
        file.unlink()
    with file.open("ab+") as opened:
        if opened.tell() > 0:
            opened.seek(-1, os.SEEK_END)
            if opened.read(1) != b"\n":
                opened.write(b"\n")
        opened.write(json.dumps(asdict(entry)).encode() + b"\n")
        opened.flush()
        os.fsync(opened.fileno())


def is_done(entry: Entry, key: str, output: Path) -> bool:
    """Whether a job's last success is of this key, and its files are there as they were written.
    Manifests of earlier versions have no hashes: there, files that are not empty."""
    files = [output / name for name in entry.files]
    if entry.key != key or not files:
        return False
    links = [file for file in files if file.is_symlink()]
    if links:
        _log.warning("%s is a link: it is replaced by the result, made again.", links[0])
        return False
    if any(not file.is_file() for file in files):
        return False
    sizes = [file.stat().st_size for file in files]
    if not all(sizes) or entry.sizes not in (None, sizes):
        return False
    return entry.sha256 is None or [hash_file(file) for file in files] == entry.sha256
