"""A ComfyUI server as a process of ours, that never outlives the `with` block it runs in."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from ..errors import ServerError, StableVITONError

_FOLDERS = ("custom_nodes", "input", "models", "output", "temp", "user")
_COUNT_DEVICES = """
import sys, torch
xpu = hasattr(torch, "xpu") and torch.xpu.is_available()
others = torch.backends.mps.is_available() or xpu
sys.exit(torch.cuda.device_count() if torch.cuda.is_available() else int(others))
"""


# Waits until whoever started it is gone, however that ended, then ends the group of processes.
_GUARD = """
import os, signal, sys
sys.stdin.read()
try:
    os.killpg(int(sys.argv[1]), signal.SIGKILL)
except (ProcessLookupError, PermissionError):
    pass
"""


@dataclass(frozen=True)
class Server:
    url: str
    base: Path
    log: Path
    process: subprocess.Popen

    def log_tail(self, lines: int = 30) -> str:
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(f"  | {line}" for line in text.splitlines()[-lines:])


@contextmanager
def serve(
    comfyui: Path,
    base: Path,
    *,
    cpu: bool,
    python: str = sys.executable,
    options: Sequence[str] = (),
    timeout: float = 300.0,
) -> Iterator[Server]:
    """A ComfyUI that answers, with `base` as the folder of all its files.

    comfyui: the folder with its main.py; options: more of main.py's command line; timeout:
    seconds to wait for the first answer. The process and its children are gone afterwards.
    Raises ServerError with the end of the log when it does not start, and when an error of ours
    leaves the block because it has ended meanwhile.
    """
    base = base.resolve()
    for name in _FOLDERS:
        (base / name).mkdir(parents=True, exist_ok=True)
    port = _free_port()
    command = [
        python,
        "main.py",
        "--listen",
        "127.0.0.1",
        "--port",
        str(port),
        "--base-directory",
        str(base),
        "--database-url",
        f"sqlite:///{(base / 'user' / 'comfyui.db').as_posix()}",
        "--disable-auto-launch",
        *(["--cpu"] if cpu else []),
        *options,
    ]
    log = base / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=comfyui,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, to end its children with it
        )
    server = Server(f"http://127.0.0.1:{port}", base, log, process)
    guard = None
    try:
        guard = _guard(process)
        _wait_for_answer(server, timeout)
        yield server
    except StableVITONError as error:
        if isinstance(error, ServerError) and process.poll() is not None:
            raise ServerError(
                f"ComfyUI ended by itself (exit code {process.returncode}). The end of its log, "
                f"{log}:\n{server.log_tail()}"
            ) from error
        raise
    finally:
        _stop(process)
        if guard is not None and guard.stdin is not None:
            guard.stdin.close()
            guard.wait()


def accelerators(python: str = sys.executable) -> int:
    """How many devices other than the CPU that interpreter's torch finds.

    It is asked in a process of its own: torch is not imported here.
    """
    return subprocess.run([python, "-c", _COUNT_DEVICES]).returncode


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for_answer(server: Server, timeout: float) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise ServerError("ComfyUI ended while starting.")
        try:
            with direct.open(f"{server.url}/system_stats", timeout=5):
                return
        except (OSError, HTTPException):
            time.sleep(0.2)
    raise ServerError(
        f"ComfyUI did not answer at {server.url} within {timeout:.0f} s. The end of its log, "
        f"{server.log}:\n{server.log_tail()}"
    )


def _guard(process: subprocess.Popen) -> subprocess.Popen | None:
    """A process that ends the server when ours is killed; Windows has no process groups for it."""
    if os.name == "nt":
        return None
    command = [sys.executable, "-c", _GUARD, str(process.pid)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def _stop(process: subprocess.Popen) -> None:
    if os.name == "nt":
        if process.poll() is None:
            subprocess.run(
                ["taskkill", "/F", "/T", "/PID", str(process.pid)], stdout=subprocess.DEVNULL
            )
        process.wait()
        return
    try:
        _signal_group(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
    finally:
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: subprocess.Popen, number: int) -> None:
    # macOS answers PermissionError for a group of which only a zombie is left
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
