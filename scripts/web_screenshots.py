"""What `export_graphs.py` runs in the environment: graphs opened in a browser, queued and shot."""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers.browser import (  # noqa: E402
    APP_MODE,
    OPEN_GRAPH,
    SELECT,
    fetch,
    find_browser,
    open_page,
    run_command,
    run_open_graph,
    write_settings,
)
from helpers.graphs import (  # noqa: E402
    BLUEPRINTS,
    CANVASES,
    find_blueprint_id,
    find_twin,
    keep_titles,
    name_twin,
    read_canvas,
    read_project,
)
from stableviton_core.serving.graph import find_title  # noqa: E402
from stableviton_core.serving.install import PACK, install_pack  # noqa: E402
from stableviton_core.serving.process import Server, count_accelerators, serve  # noqa: E402

GRAPH_SCREENSHOTS = PACK / "docs" / "graphs"
NODE_SCREENSHOTS = PACK / "web" / "docs" / "images"
SCALE = 0.6  # of the canvas in a screenshot of a graph
MARGIN = (130, 150)  # pixels of the page that lie under its bars, left and top
THUMBNAIL = 512

WAKE_BYPASSED = "() => window.app.graph.nodes.forEach((node) => { node.mode = 0; })"
# Shows the graph, or a subgraph of it, at a scale; where its nodes are, by their types
SHOW = """async ([subgraph, scale, left, top]) => {
    const { canvas, graph } = window.app;
    canvas.setGraph(subgraph ? graph.subgraphs.get(subgraph) : graph);
    const shown = canvas.graph;
    const boxes = [...shown._nodes, ...shown._groups].map((item) => item.boundingRect);
    const x = Math.min(...boxes.map((box) => box[0]));
    const y = Math.min(...boxes.map((box) => box[1]));
    const right = Math.max(...boxes.map((box) => box[0] + box[2]));
    const bottom = Math.max(...boxes.map((box) => box[1] + box[3]));
    canvas.ds.scale = scale;
    canvas.ds.offset = [left / scale - x, top / scale - y];
    canvas.setDirty(true, true);
    const area = ([a, b, w, h]) => [left + (a - x) * scale, top + (b - y) * scale,
                                    w * scale, h * scale];
    return {
        size: [(right - x) * scale, (bottom - y) * scale],
        nodes: Object.fromEntries(shown._nodes.map((n) => [n.type, area(n.boundingRect)])),
    };
}"""


def stamp_version(file: Path) -> None:
    """Write the pack's version to its nodes in a graph or blueprint."""
    pattern = rf'("cnr_id": "{read_project("name")}",\s*"ver": )"[^"]*"'
    graph = file.read_text(encoding="utf-8")
    stamped = re.sub(pattern, rf'\g<1>"{read_project("version")}"', graph)
    file.write_text(stamped, encoding="utf-8")


def export_twin(page: Any, file: Path) -> dict:
    """Write a graph as it is queued."""
    graph = keep_titles(page.evaluate(OPEN_GRAPH, read_canvas(file)))
    find_twin(file.stem).write_text(
        json.dumps(graph, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return graph


def show(page: Any, subgraph: str | None, scale: float) -> dict[str, Any]:
    """Show the graph that is open, or a subgraph of it: its `size` on the page in pixels, and the
    areas of its `nodes` by type."""
    view = [subgraph, scale, *MARGIN]
    page.evaluate(SHOW, view)
    page.wait_for_timeout(1000)  # nodes have their places once they are drawn
    return page.evaluate(SHOW, view)


def shoot(page: Any, file: Path, area: tuple[float, ...]) -> None:
    x, y, width, height = area
    clip = {"x": x, "y": y, "width": width, "height": height}
    page.set_viewport_size({"width": round(x + width + 60), "height": round(y + height + 60)})
    page.wait_for_timeout(1500)
    save(Image.open(io.BytesIO(page.screenshot(clip=clip))), file)


def save(image: Image.Image, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image.convert("RGB").save(file, quality=88, optimize=True)


def shoot_graph(page: Any, title: str, shot: set[str]) -> None:
    """The canvas after a run, and each node of the pack whose type is not among those `shot`."""
    left, top = MARGIN
    width, height = show(page, None, SCALE)["size"]
    file = GRAPH_SCREENSHOTS / f"{name_twin(title)}.jpg"
    shoot(page, file, (left - 15, top - 15, width + 30, height + 30))
    page.evaluate(WAKE_BYPASSED)
    subgraphs = page.evaluate("() => [...window.app.graph.subgraphs.keys()]")
    for subgraph in (None, *subgraphs):
        for node, (x, y, width, height) in show(page, subgraph, 1)["nodes"].items():
            if node.startswith("StableVITON") and node not in shot:
                shot.add(node)
                shoot(
                    page, NODE_SCREENSHOTS / f"{node}.jpg", (x - 8, y - 8, width + 16, height + 16)
                )


def shoot_surface(page: Any) -> None:
    """Template browser, an opened blueprint, App mode, node search and help panel."""
    run_command(page, "Comfy.BrowseTemplates")
    page.get_by_placeholder("Search").last.fill("StableVITON")
    page.wait_for_timeout(15_000)  # until the thumbnails are there
    shoot_page(page, "templates")
    page.keyboard.press("Escape")
    page.evaluate(OPEN_GRAPH, read_canvas(CANVASES["StableVITON Try-On Photo"]))
    page.mouse.dblclick(800, 900)
    page.keyboard.type("try on", delay=50)
    shoot_page(page, "search")
    page.keyboard.press("Escape")
    run_command(page, APP_MODE)
    page.get_by_role("button", name="Run").last.click()
    page.locator("img[src*='filename=tryon_']").first.wait_for()
    shoot_page(page, "app_mode")
    run_command(page, APP_MODE)
    shoot_blueprint(page, "Try On (StableVITON)")
    page.set_viewport_size({"width": 1600, "height": 1000})
    page.evaluate(OPEN_GRAPH, read_canvas(CANVASES["StableVITON Try-On"]))
    page.evaluate(SELECT, "StableVITONPasteBack")
    page.get_by_test_id("info-button").click()
    shoot_page(page, "help")


def shoot_blueprint(page: Any, name: str) -> None:
    """What is inside a blueprint of the graph that is open."""
    left, top = MARGIN
    width, height = show(page, find_blueprint_id(name), SCALE)["size"]
    area = (0, top - 60, left + width + 80, height + 220)
    shoot(page, GRAPH_SCREENSHOTS / "blueprint.jpg", area)


def shoot_page(page: Any, name: str) -> None:
    page.wait_for_timeout(2500)
    save(Image.open(io.BytesIO(page.screenshot())), GRAPH_SCREENSHOTS / f"{name}.jpg")


def read_image(server: Server, query: str) -> Image.Image:
    return Image.open(io.BytesIO(fetch(server, f"view?{query}"))).convert("RGB")


def make_thumbnail(garment: Image.Image, person: Image.Image, result: Image.Image) -> Image.Image:
    """Garment above person on the left, the result on the right, on a square."""
    thumbnail = Image.new("RGB", (THUMBNAIL, THUMBNAIL), "white")
    small, large = THUMBNAIL * 3 // 8, THUMBNAIL * 5 // 8
    for image, size, place in (
        (garment, (small, THUMBNAIL // 2), (0, 0)),
        (person, (small, THUMBNAIL // 2), (0, THUMBNAIL // 2)),
        (result, (large, THUMBNAIL), (small, 0)),
    ):
        image = crop_to_aspect(image, size[0] / size[1])
        thumbnail.paste(image.resize(size, Image.Resampling.LANCZOS), place)
    return thumbnail


def crop_to_aspect(image: Image.Image, aspect: float) -> Image.Image:
    """The middle of an image, of the aspect width / height."""
    width, height = min(image.width, image.height * aspect), min(image.height, image.width / aspect)
    left, top = (image.width - width) / 2, (image.height - height) / 2
    return image.crop((round(left), round(top), round(left + width), round(top + height)))


def run_graph(page: Any, server: Server, file: Path, graph: dict, shot: set[str]) -> None:
    """Queue the graph that is open; its thumbnail, and screenshots of the canvas."""
    outputs = run_open_graph(page, server)
    titles = {node.get("_meta", {}).get("title") for node in graph.values()}
    images = [
        read_image(
            server, f"filename={graph[find_title(graph, title)]['inputs']['image']}&type=input"
        )
        for title in ("Garment", "Person")
    ]
    target = find_title(graph, "Result" if "Result" in titles else "agnostic-v3.2")
    result = outputs[target]["images"][0]
    query = f"filename={result['filename']}&subfolder={result['subfolder']}&type=output"
    save(make_thumbnail(*images, read_image(server, query)), file.with_suffix(".jpg"))
    shoot_graph(page, file.stem, shot)


@contextmanager
def open_web_interface(comfyui: Path) -> Iterator[tuple[Server, Any]]:
    """A server with the pack as it is now, and a page of its web interface."""
    browser = find_browser()
    if browser is None:
        sys.exit("Needs a Chromium, Chrome or Edge: install one, or name it in CHROME_PATH.")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        install_pack(base)
        write_settings(base)
        with (
            serve(comfyui, base, cpu=count_accelerators() == 0) as server,
            open_page(server.url, browser, viewport={"width": 1600, "height": 1000}) as page,
        ):
            page.set_default_timeout(0)
            yield server, page


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("--screenshots", action="store_true")
    options = parser.parse_args()
    for file in (*CANVASES.values(), *BLUEPRINTS.values()):
        stamp_version(file)
    shot: set[str] = set()
    with open_web_interface(options.comfyui) as (server, page):
        for file in CANVASES.values():
            graph = export_twin(page, file)
            print(file.stem, flush=True)
            if options.screenshots:
                run_graph(page, server, file, graph, shot)
    if options.screenshots:  # of a server that has the new thumbnails and images
        with open_web_interface(options.comfyui) as (_, page):
            shoot_surface(page)


if __name__ == "__main__":
    main()
