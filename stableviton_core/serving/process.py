"""ComfyUI servers as child processes that never outlive the `with` block they run in."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from ..errors import ServerError
from .install import FOLDER_NAME, install_pack

STARTUP_TIMEOUT = 300.0  # seconds until the first answer
_FOLDERS = ("custom_nodes", "input", "models", "output", "temp", "user")
_CPU_OPTIONS = ("--cpu", "--use-pytorch-cross-attention")
_COUNT_DEVICES = """
import sys, torch
xpu = hasattr(torch, "xpu") and torch.xpu.is_available()
others = torch.backends.mps.is_available() or xpu
sys.exit(torch.cuda.device_count() if torch.cuda.is_available() else int(others))
"""
# Its standard input closes when the parent process ends in any way; then it kills the group.
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

    def log_tail(self) -> str:
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(f"  | {line}" for line in text.splitlines()[-30:])


@contextmanager
def serve(comfyui: Path, base: Path, *, cpu: bool, options: Sequence[str] = ()) -> Iterator[Server]:
    """Start a ComfyUI and wait until it answers; stop it and its children afterwards.

    comfyui: the folder with its main.py. base: folder for all files of the server. options:
    further arguments of main.py. ServerError with the end of the log when it does not start, or
    ended while the block ran. On the CPU all networks of the server run with
    scaled_dot_product_attention; by itself ComfyUI computes attention in chunks there.
    """
    base = base.resolve()
    for name in _FOLDERS:
        (base / name).mkdir(parents=True, exist_ok=True)
    port = _find_free_port()
    database = f"sqlite:///{(base / 'user' / 'comfyui.db').as_posix()}"
    command = [sys.executable, "main.py", "--listen", "127.0.0.1", "--port", str(port)]
    command += ["--base-directory", str(base), "--database-url", database]
    command += ["--disable-auto-launch", *(_CPU_OPTIONS if cpu else ()), *options]
    log = base / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=comfyui,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a process group, to end its children with it
        )
    server = Server(f"http://127.0.0.1:{port}", base, log, process)
    guard = None
    try:
        guard = _start_guard(process)
        _wait_for_answer(server)
        yield server
    except ServerError as error:
        if process.poll() is not None:
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


@contextmanager
def start_servers(count: int, comfyui: Path, base: Path) -> Iterator[Sequence[Server]]:
    """Start servers, spread over the CUDA devices, or on the CPU where there is none.

    They use the models and custom nodes of the ComfyUI folder; their other files are in `base`.
    ServerError where one does not start.
    """
    devices = count_accelerators()
    with ExitStack() as stack:
        yield [
            stack.enter_context(start_server(comfyui, base / str(index), index, devices))
            for index in range(count)
        ]


@contextmanager
def start_server(comfyui: Path, base: Path, index: int, devices: int) -> Iterator[Server]:
    """As `start_servers`, the server of this index, on one of so many devices."""
    base = base.resolve()  # the server runs in another folder
    base.mkdir(parents=True, exist_ok=True)
    if not (comfyui / "custom_nodes" / FOLDER_NAME).exists():
        install_pack(base)
    model_paths = base / "extra_model_paths.yaml"
    model_paths.write_text(json.dumps(_list_model_paths(comfyui)), encoding="utf-8")  # valid YAML
    options = ["--extra-model-paths-config", str(model_paths)]
    if devices > 1:
        options += ["--cuda-device", str(index % devices)]
    with serve(comfyui, base, cpu=devices == 0, options=options) as server:
        yield server


def _list_model_paths(comfyui: Path) -> dict[str, dict[str, str]]:
    folders = {path.name: str(path) for path in (comfyui / "models").glob("*") if path.is_dir()}
    if (comfyui / "custom_nodes").is_dir():
        folders["custom_nodes"] = str(comfyui / "custom_nodes")
    return {"comfyui": folders}


def count_accelerators() -> int:
    """Number of devices other than the CPU. A child process counts them, so that torch is not
    imported here."""
    return subprocess.run([sys.executable, "-c", _COUNT_DEVICES]).returncode


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for_answer(server: Server) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + STARTUP_TIMEOUT
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise ServerError("ComfyUI ended while starting.")
        try:
            with direct.open(f"{server.url}/system_stats", timeout=5):
                return
        except (OSError, HTTPException):
            time.sleep(0.2)
    raise ServerError(
        f"ComfyUI did not answer at {server.url} within {STARTUP_TIMEOUT:.0f} s. The end of its "
        f"log, {server.log}:\n{server.log_tail()}"
    )


def _start_guard(process: subprocess.Popen) -> subprocess.Popen | None:
    """A process that kills the server when ours is killed; not on Windows, which has no process
    groups."""
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
