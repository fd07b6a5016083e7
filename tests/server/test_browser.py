"""The web interface: the shipped graphs, blueprints, App mode and help pages."""

import json
import re
from urllib.parse import quote

import pytest

from helpers.browser import fetch, find_browser, open_page, pack_nodes
from helpers.graphs import BLUEPRINTS, CANVASES, api_name, list_placed_nodes, read_canvas, read_twin
from stableviton_core.serving.install import FOLDER_NAME, PACK

GRAPHS = sorted(CANVASES)
PACK_MODULE = f"custom_nodes.{FOLDER_NAME}"
TRY_ONS = [name for name in GRAPHS if name != "StableVITON Prepare Dataset"]
BYPASS = 4  # mode of a node
LARGEST = (1600 / 0.6, 1000 / 0.6)  # of a graph: it fits 1600 x 1000 pixels at 60 %

OPEN_GRAPH = """async (graph) => {
    await window.app.loadGraphData(graph);
    const { graph: opened } = window.app;
    const parts = [opened, ...opened.subgraphs.values()];
    const types = parts.flatMap((part) => part.nodes.map((node) => node.type));
    const known = (type) => type in LiteGraph.registered_node_types || opened.subgraphs.has(type);
    const boxes = [...opened.nodes, ...opened.groups].map((item) => [...item.boundingRect]);
    const { output } = await window.app.graphToPrompt();
    return { missing: types.filter((type) => !known(type)), output, boxes };
}"""
TOGGLE_APP_MODE = """async () => {
    await window.app.extensionManager.command.execute("Comfy.ToggleLinear");
}"""
LIST_TITLES = "() => window.app.graph.nodes.map((node) => node.title)"
SELECT = """(type) => {
    const { canvas, graph } = window.app;
    const node = graph.nodes.find((node) => node.type === type);
    canvas.deselectAll();
    canvas.centerOnNode(node);
    canvas.selectNode(node);
}"""


@pytest.fixture(scope="module")
def page(server):
    """The web interface of the server in a headless browser; `errors` has what its console says."""
    pytest.importorskip(
        "playwright.sync_api", reason="needs the package playwright: pip install playwright"
    )
    browser = find_browser()
    if browser is None:
        pytest.skip("needs a Chromium, Chrome or Edge: install one, or name it in CHROME_PATH")
    with open_page(server.url, browser, viewport={"width": 1600, "height": 1000}) as page:
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("console", lambda line: is_error(line) and page.errors.append(line.text))
        yield page


def is_error(line) -> bool:
    """Whether a line of the console is an error, but for what the web interface misses offline."""
    return line.type == "error" and not re.search("net::ERR_|Content Security", line.text)


def test_each_graph_is_described_with_a_picture():
    page = (PACK / "docs" / "graphs.md").read_text(encoding="utf-8")
    for name in GRAPHS:
        assert f"## {name}\n" in page
        assert f"](graphs/{api_name(name)}.jpg)" in page
        assert (PACK / "docs" / "graphs" / f"{api_name(name)}.jpg").is_file()


@pytest.mark.browser
@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_opens_as_its_twin(page, name):
    page.errors.clear()
    opened = page.evaluate(OPEN_GRAPH, read_canvas(CANVASES[name]))
    assert opened["missing"] == []
    assert opened["output"] == read_twin(name)
    page.wait_for_timeout(500)
    assert page.errors == []
    assert "error" not in page.inner_text("body").lower(), "images that the server has not"
    sides = [
        max(box[axis] + box[axis + 2] for box in opened["boxes"])
        - min(box[axis] for box in opened["boxes"])
        for axis in (0, 1)
    ]
    assert sides[0] <= LARGEST[0] and sides[1] <= LARGEST[1], sides


@pytest.mark.browser
@pytest.mark.parametrize("name", ["StableVITON Try-On", "StableVITON Try-On Photo"])
def test_a_bypass_passes_the_tryon_on(page, name):
    graph = read_canvas(CANVASES[name])
    bypassed = {"StableVITONPasteBack", "StableVITONStitch"}
    for node in list_placed_nodes(graph):
        if node["type"] in bypassed:
            node["mode"] = BYPASS
    prompt = page.evaluate(OPEN_GRAPH, graph)["output"]
    assert not {node["class_type"] for node in prompt.values()} & bypassed
    target = next(node for node in prompt.values() if node["_meta"]["title"] == "Result")
    assert prompt[target["inputs"]["images"][0]]["class_type"] == "VAEDecode"


@pytest.mark.browser
def test_an_unknown_node_is_seen_as_missing(page):
    graph = read_canvas(CANVASES["StableVITON Try-On"])
    graph["nodes"][0]["type"] = "NoSuchNode"
    assert page.evaluate(OPEN_GRAPH, graph)["missing"] == ["NoSuchNode"]


@pytest.mark.browser
@pytest.mark.parametrize("name", TRY_ONS)
def test_app_mode_has_the_inputs_of_a_tryon(page, name):
    page.evaluate(OPEN_GRAPH, read_canvas(CANVASES[name]))
    page.evaluate(TOGGLE_APP_MODE)
    category = ["category"] if "StableVITONCrop" in str(read_twin(name)) else []
    if name == "StableVITON Try-On Two Garments":
        category = []  # each of its try-ons has one of its own
    for label in ("Person", "Garment", "seed", "checkpoint", *category):
        page.get_by_text(label, exact=True).locator("visible=true").first.wait_for(timeout=10_000)
    page.get_by_role("button", name="Run").last.wait_for(timeout=10_000)
    page.evaluate(TOGGLE_APP_MODE)


@pytest.mark.browser
def test_app_mode_makes_a_result(page):
    graph = read_canvas(CANVASES["StableVITON Try-On"])
    for node in graph["nodes"]:
        if node["type"] == "StableVITONSchedule":
            node["widgets_values"] = [1]
    page.evaluate(OPEN_GRAPH, graph)
    page.evaluate(TOGGLE_APP_MODE)
    page.get_by_role("button", name="Run").last.click()
    page.locator("img[src*='filename=tryon_']").first.wait_for(timeout=120_000)
    page.evaluate(TOGGLE_APP_MODE)


def test_the_graphs_are_offered_as_templates(server):
    templates = json.loads(fetch(server, "workflow_templates"))
    assert sorted(templates[FOLDER_NAME]) == GRAPHS
    for name in GRAPHS:
        path = quote(f"api/workflow_templates/{FOLDER_NAME}/{name}.jpg")
        assert fetch(server, path) == CANVASES[name].with_suffix(".jpg").read_bytes()


def test_the_blueprints_are_in_the_node_library(server):
    offered = json.loads(fetch(server, "global_subgraphs"))
    ours = {
        key: entry for key, entry in offered.items() if entry["info"]["node_pack"] == PACK_MODULE
    }
    assert {entry["name"] for entry in ours.values()} == set(BLUEPRINTS)
    assert all(entry["name"].endswith("(StableVITON)") for entry in ours.values())


@pytest.mark.browser
def test_try_on_finds_the_blueprint_first(page):
    page.evaluate(OPEN_GRAPH, {"nodes": [], "links": [], "version": 0.4})
    page.mouse.dblclick(800, 700)
    page.keyboard.type("try on", delay=50)
    page.wait_for_timeout(1500)
    page.keyboard.press("Enter")
    page.wait_for_timeout(1000)
    page.mouse.click(800, 700)
    assert page.evaluate(LIST_TITLES) == ["Try On (StableVITON)"]


def test_the_blueprints_are_those_of_the_graphs():
    blueprints = {}
    for file in BLUEPRINTS.values():
        (node,) = read_canvas(file)["nodes"]
        definitions = read_canvas(file)["definitions"]["subgraphs"]
        assert definitions[0]["id"] == node["type"] and definitions[0]["name"] == file.stem
        blueprints |= {definition["id"]: definition for definition in definitions}
    used = {
        definition["id"]: definition
        for file in CANVASES.values()
        for definition in read_canvas(file).get("definitions", {}).get("subgraphs", [])
    }
    assert set(blueprints) <= set(used)
    assert {key: used[key] for key in blueprints} == blueprints


@pytest.mark.browser
@pytest.mark.parametrize("node", ["StableVITONDetail", "StableVITONScore"])
def test_a_help_page_is_shown_with_its_picture(server, page, node):
    page.evaluate(OPEN_GRAPH, read_canvas(CANVASES["StableVITON Try-On Correspondence"]))
    page.evaluate(SELECT, node)
    page.get_by_test_id("info-button").click()
    title = pack_nodes(server)[node]["display_name"]
    page.get_by_role("heading", name=title, exact=True).first.wait_for(timeout=10_000)
    picture = page.locator(f"img[src*='{node}.jpg']").first
    picture.wait_for(timeout=10_000)
    assert picture.evaluate("image => image.complete && image.naturalWidth > 100")
