"""Helpers of the web interface's tests: a browser, and the server's description of our nodes."""

import json
import os
import shutil
import urllib.request
from pathlib import Path

from stableviton_core.serving.install import FOLDER_NAME
from stableviton_core.serving.process import Server

COMMANDS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
    "msedge",
)
PATHS = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    r"%ProgramFiles%\Google\Chrome\Application\chrome.exe",
    r"%ProgramFiles(x86)%\Google\Chrome\Application\chrome.exe",
    r"%ProgramFiles(x86)%\Microsoft\Edge\Application\msedge.exe",
)


def find_browser() -> str | None:
    """A Chromium, Chrome or Edge: CHROME_PATH, else one on PATH or at a usual path."""
    if "CHROME_PATH" in os.environ:
        return os.environ["CHROME_PATH"]
    installed = (path for path in map(os.path.expandvars, PATHS) if Path(path).is_file())
    return next(filter(None, (*map(shutil.which, COMMANDS), *installed)), None)


def fetch(server: Server, path: str) -> bytes:
    """urllib's HTTPError for an answer other than 200."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"{server.url}/{path}", timeout=60) as answer:
        return answer.read()


def object_info(server: Server) -> dict[str, dict]:
    return json.loads(fetch(server, "object_info"))


def pack_nodes(server: Server) -> dict[str, dict]:
    """The entries of object_info for the nodes of this pack."""
    module = f"custom_nodes.{FOLDER_NAME}"
    return {
        node: info for node, info in object_info(server).items() if info["python_module"] == module
    }


def inputs_of(info: dict) -> dict[str, tuple]:
    """All inputs of a node by name, each (type, options)."""
    inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    return {name: (kind, *rest, {})[:2] for name, (kind, *rest) in inputs.items()}
