"""The web interface: a browser with a page of it, and the server's description of our nodes."""

import json
import os
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# Without the templates at the first visit, and what lies over the canvas
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
}
OPEN_GRAPH = """async (graph) => {
    await window.app.loadGraphData(graph);
    return (await window.app.graphToPrompt()).output;
}"""
RUN = """async () => {
    const ended = new Promise((resolve) => {
        for (const name of ["execution_success", "execution_error", "execution_interrupted"])
            window.app.api.addEventListener(name, ({ detail }) => resolve([name, detail]),
                                            { once: true });
    });
    await window.app.queuePrompt(0);
    const refusals = window.app.lastNodeErrors ?? {};
    return Object.keys(refusals).length ? ["refused", refusals] : await ended;
}"""
SELECT = """(type) => {
    const { canvas, graph } = window.app;
    const node = graph.nodes.find((node) => node.type === type);
    canvas.deselectAll();
    canvas.centerOnNode(node);
    canvas.selectNode(node);
}"""
APP_MODE = "Comfy.ToggleLinear"
# The frontend opens a graph of its own at the end of its start.
READY = "() => window.app?.extensionManager?.workflow?.activeWorkflow && window.app.canvas?.graph"


def write_settings(base: Path) -> None:
    """The web interface's settings of a server's folder, before it starts."""
    file = base / "user" / "default" / "comfy.settings.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(SETTINGS), encoding="utf-8")


@contextmanager
def open_page(url: str, browser: str, **options: Any) -> Iterator[Any]:
    """The web interface of a server in a headless browser: playwright's Page. options: of it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=browser, headless=True, args=FLAGS)
        page = running.new_page(**options)
        page.goto(url)
        page.wait_for_function(READY, timeout=60_000)
        yield page
        running.close()


def run_command(page: Any, name: str) -> None:
    page.evaluate("(name) => window.app.extensionManager.command.execute(name)", name)


def run_open_graph(page: Any, server: Server) -> dict[str, Any]:
    """Queue the graph that is open -> the outputs by node. RuntimeError where it fails."""
    ending, detail = page.evaluate(RUN)
    if ending != "execution_success":
        raise RuntimeError(f"{ending}: {detail}")
    prompt = detail["prompt_id"]
    return json.loads(fetch(server, f"history/{prompt}"))[prompt]["outputs"]


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
