"""Files: atomic writing, hashes, and safe names."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_NAME_BYTES = 120  # of a result's name; file systems allow 255 with ending and hash


@contextmanager
def replace_atomically(file: Path) -> Iterator[Path]:
    """A temporary path beside the file, to be written in the block. It replaces the file when the
    block ends and is removed when the block fails. Where either is a link, what it points to stays
    as it is."""
    partial = file.with_name(file.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        yield partial
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def hash_bytes(content: bytes) -> str:
    """SHA-256 as hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            digest.update(chunk)
    return digest.hexdigest()


def make_safe_name(name: str) -> str:
    """The name with letters and digits of any script and . + - _ only, in MAX_NAME_BYTES."""
    safe = re.sub(r"[^\w.+-]", "_", name).lstrip(".") or "_"
    while len(os.fsencode(safe)) > MAX_NAME_BYTES:
        safe = safe[: len(safe) * 9 // 10]
    return safe
