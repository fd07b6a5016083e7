"""One writer of an output folder at a time."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import StableVITONError

LOCK, HOLDER = ".lock", ".lock-holder"  # in a folder that a process writes to
LOCK_TIMEOUT = 6.0  # seconds; processes that a killed one has left take up to 5 to end


@contextmanager
def lock_folder(folder: Path, command: str) -> Iterator[None]:
    """Be the only writer of a folder for the time of the block; a killed process holds it no
    longer. The folder is made, and removed again where nothing was written to it. command: what the
    error of others names. StableVITONError where another process writes to the folder, or locking
    does not work there."""
    lock, holder = folder / LOCK, folder / HOLDER
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in (lock, holder):
            if file.is_symlink():
                raise StableVITONError(f"{file} is a link; it would be written through. Delete it.")
        acquired = FileLock(lock, thread_local=False).acquire(timeout=LOCK_TIMEOUT)
    except Timeout as error:
        raise StableVITONError(
            f"{folder} is in use by {_read_holder(holder)}. Wait until that ends, or name another "
            "--output."
        ) from error
    except (OSError, NotImplementedError) as error:
        raise StableVITONError(f"{folder} cannot be locked for writing: {error}") from error
    try:
        with acquired:
            _write_holder(holder, command)
            try:
                yield
            finally:
                with suppress(OSError):  # the error of the block matters
                    holder.unlink(missing_ok=True)
    finally:
        if is_new:
            _remove_unused(folder)


def _write_holder(file: Path, command: str) -> None:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    text = f"`{command}`, process {os.getpid()} on {socket.gethostname()} since {since}"
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StableVITONError(f"{file.parent} cannot be written to: {error}") from error


def _remove_unused(folder: Path) -> None:
    """Delete a folder in which nothing but the lock was written."""
    with suppress(OSError):  # somebody else may use it by now
        if {file.name for file in folder.iterdir()} <= {LOCK, HOLDER}:
            for name in (LOCK, HOLDER):
                (folder / name).unlink(missing_ok=True)
            folder.rmdir()


def _read_holder(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")[:200] or "another process"
    except OSError:
        return "another process"
