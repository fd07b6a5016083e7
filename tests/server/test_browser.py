"""The web interface: the shipped graphs, blueprints, App mode and help pages."""

import json
import re
from urllib.parse import quote

import numpy as np
import pytest

from helpers.adapters import write_pose_adapter
from helpers.browser import (
    APP_MODE,
    OPEN_GRAPH,
    READY,
    SELECT,
    fetch,
    pack_nodes,
    run_command,
    run_open_graph,
)
from helpers.checkpoints import write_checkpoint
from helpers.graphs import (
    BLUEPRINTS,
    CANVASES,
    find_blueprint_id,
    keep_titles,
    list_placed_nodes,
    name_twin,
    read_canvas,
    read_twin,
    set_widgets,
)
from helpers.loras import write_lora
from stableviton_core.images import decode_image
from stableviton_core.serving.install import FOLDER_NAME, PACK

GRAPHS = sorted(CANVASES)
PACK_MODULE = f"custom_nodes.{FOLDER_NAME}"
TRY_ONS = [name for name in GRAPHS if name != "StableVITON Prepare Dataset"]
BYPASS = 4  # mode of a node
TRY_ON, PREPARE = map(find_blueprint_id, ("Try On (StableVITON)", "Prepare Person (StableVITON)"))
SMALL = {PREPARE: ["upper", 192, 256]}  # category, width and height of the working image
NO_INNER_INPUTS = ((0, 20), (0, 26))  # ComfyUIs: App mode lacks some inputs of subgraphs
MISSING_FILES = re.compile("View details|Show missing inputs")  # the button of an error's box
LARGEST = (1600 / 0.6, 1000 / 0.6)  # of a graph: it fits 1600 x 1000 pixels at 60 %

DESCRIBE = """() => {
    const { graph } = window.app;
    const parts = [graph, ...graph.subgraphs.values()];
    const types = parts.flatMap((part) => part.nodes.map((node) => node.type));
    const known = (type) => type in LiteGraph.registered_node_types || graph.subgraphs.has(type);
    const boxes = [...graph.nodes, ...graph.groups].map((item) => [...item.boundingRect]);
    return { missing: types.filter((type) => !known(type)), boxes };
}"""
HAS_COMMAND = """(name) =>
    window.app.extensionManager.command.commands.some((command) => command.id === name)"""
OPEN_SUBGRAPH = """(id) => {
    const { canvas, graph } = window.app;
    canvas.setGraph(graph.subgraphs.get(id));
}"""
SET_CFG = """(value) => {
    const sampler = window.app.graph.nodes.find((node) => node.type === "SamplerCustom");
    sampler.widgets.find((widget) => widget.name === "cfg").value = value;
}"""
LIST_TITLES = "() => window.app.graph.nodes.map((node) => node.title)"


def test_each_graph_is_described_with_a_screenshot():
    page = (PACK / "docs" / "graphs.md").read_text(encoding="utf-8")
    for name in GRAPHS:
        assert f"## {name}\n" in page
        assert f"](graphs/{name_twin(name)}.jpg)" in page
        assert (PACK / "docs" / "graphs" / f"{name_twin(name)}.jpg").is_file()


@pytest.mark.browser
@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_opens_as_its_twin(page, name):
    page.errors.clear()
    queued = page.evaluate(OPEN_GRAPH, read_canvas(CANVASES[name]))
    assert keep_titles(queued) == read_twin(name)
    page.wait_for_timeout(1000)
    assert page.errors == []
    assert page.get_by_text(MISSING_FILES).count() == 0, "images that the server has not"
    opened = page.evaluate(DESCRIBE)
    assert opened["missing"] == []
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
    prompt = page.evaluate(OPEN_GRAPH, graph)
    assert not {node["class_type"] for node in prompt.values()} & bypassed
    target = next(node for node in prompt.values() if node["_meta"]["title"] == "Result")
    assert prompt[target["inputs"]["images"][0]]["class_type"] == "VAEDecode"


@pytest.mark.browser
def test_an_unknown_node_is_seen_as_missing(page):
    graph = read_canvas(CANVASES["StableVITON Try-On"])
    graph["nodes"][0]["type"] = "NoSuchNode"
    page.evaluate(OPEN_GRAPH, graph)
    assert page.evaluate(DESCRIBE)["missing"] == ["NoSuchNode"]


@pytest.mark.browser
def test_an_image_that_is_not_there_is_seen_as_missing(server, page):
    require_version(server, 0, 26)
    graph = read_canvas(CANVASES["StableVITON Try-On"])
    for node in graph["nodes"]:
        if node["type"] == "LoadImage":
            node["widgets_values"][0] = "nowhere.png"
    page.evaluate(OPEN_GRAPH, graph)
    page.get_by_text(MISSING_FILES).first.wait_for(timeout=10_000)


@pytest.mark.browser
def test_the_bypassed_lora_and_controlnet_work_once_awake(server, page):
    """With files of the small test checkpoint's size."""
    models = server.base / "models"
    checkpoint = write_checkpoint(models / "stableviton" / "small.safetensors")
    for name in ("loras", "controlnet"):
        (models / name).mkdir(exist_ok=True)
    lora = write_lora(models / "loras" / "small.safetensors", alpha=20.0)
    write_pose_adapter(models / "controlnet" / "pose.safetensors")
    page.reload()
    page.wait_for_function(READY, timeout=60_000)
    values = {
        "StableVITONLoader": [checkpoint.name, "default"],
        "StableVITONLora": [lora.name, 1.0],
        "ControlNetLoader": ["pose.safetensors"],
        "ControlNetApplyAdvanced": [5.0, 0.0, 1.0],
        "StableVITONSchedule": [1],
    }
    graph = read_canvas(CANVASES["StableVITON Try-On LoRA ControlNet"])
    set_widgets(graph, values | SMALL)
    plain = run_in_browser(server, page, graph)
    with_lora = run_in_browser(server, page, wake(graph, "StableVITONLora"))
    with_both = run_in_browser(
        server, page, wake(graph, "ControlNetLoader", "ControlNetApplyAdvanced")
    )
    assert (with_lora != plain).any() and (with_both != with_lora).any()


def read_version(server) -> tuple[int, ...]:
    """Of the server's ComfyUI."""
    served = json.loads(fetch(server, "system_stats"))["system"]["comfyui_version"]
    return tuple(map(int, served.split(".")))


def require_version(server, *version: int) -> None:
    """Skip a test of what the web interfaces of older ComfyUIs have not."""
    if read_version(server) < version:
        served = ".".join(map(str, read_version(server)))
        pytest.skip(f"the web interface of ComfyUI {served} has it not")


def wake(graph: dict, *types: str) -> dict:
    woken = [node for node in graph["nodes"] if node["type"] in types]
    assert len(woken) == len(types) and all(node["mode"] == BYPASS for node in woken)
    for node in woken:
        node["mode"] = 0
    return graph


def run_in_browser(server, page, graph: dict) -> np.ndarray:
    """The result of a graph, H x W x 3 uint8."""
    page.evaluate(OPEN_GRAPH, graph)
    outputs = run_open_graph(page, server)
    target = next(str(node["id"]) for node in graph["nodes"] if node.get("title") == "Result")
    (image,) = outputs[target]["images"]
    return decode_image(fetch(server, f"view?filename={image['filename']}&type=output"))


@pytest.mark.browser
def test_a_warning_is_on_the_node_until_its_cause_is_gone(server, page):
    graph = read_canvas(CANVASES["StableVITON Try-On"])
    sampling = [True, 0, "fixed", 8.0]  # cfg last
    set_widgets(graph, {"StableVITONSchedule": [1], "SamplerCustom": sampling})
    run_in_browser(server, page, graph)
    warning = page.get_by_text("cfg is 8. ")
    warning.first.wait_for(timeout=10_000)
    page.evaluate(SET_CFG, 1)
    run_open_graph(page, server)
    warning.first.wait_for(state="detached", timeout=10_000)
    assert warning.count() == 0


@pytest.mark.browser
def test_a_warning_is_on_a_node_of_an_opened_subgraph(server, page):
    require_version(server, 0, 30)
    graph = read_canvas(CANVASES["StableVITON Try-On Photo"])
    set_widgets(graph, {TRY_ON: ["stableviton-demo.safetensors", "upper", 1, 0]} | SMALL)
    page.evaluate(OPEN_GRAPH, graph)
    page.evaluate(OPEN_SUBGRAPH, TRY_ON)
    run_open_graph(page, server)
    page.get_by_text("This checkpoint knows drawn figures only").first.wait_for(timeout=10_000)


def shows_category(name: str, version: tuple[int, ...]) -> bool:
    """Whether a graph has a category in App mode."""
    graph = read_canvas(CANVASES[name])
    types = {node["type"] for node in list_placed_nodes(graph)}
    if "StableVITONCrop" not in types or name == "StableVITON Try-On Two Garments":
        return False  # there is none, or each try-on has its own
    return "definitions" not in graph or version[:2] not in NO_INNER_INPUTS


@pytest.fixture
def app_mode(page):
    """A function that opens a graph in App mode."""
    if not page.evaluate(HAS_COMMAND, APP_MODE):
        pytest.skip("this web interface has no App mode")

    def open_in_app_mode(graph: dict) -> None:
        page.evaluate(OPEN_GRAPH, graph)
        page.keyboard.press("Escape")  # a dialog that the graph before it opened
        page.wait_for_timeout(500)
        run_command(page, APP_MODE)
        page.wait_for_timeout(1000)
        welcome = page.get_by_role("button", name="Skip")  # newer web interfaces offer a tour
        if welcome.count():
            welcome.first.click()

    yield open_in_app_mode
    run_command(page, APP_MODE)


@pytest.mark.browser
@pytest.mark.parametrize("name", TRY_ONS)
def test_app_mode_has_the_inputs_of_a_tryon(server, page, app_mode, name):
    app_mode(read_canvas(CANVASES[name]))
    labels = ["Person", "Garment", "seed", "checkpoint"]
    if shows_category(name, read_version(server)):
        labels += ["category"]
    for label in labels:
        page.get_by_text(label, exact=True).locator("visible=true").first.wait_for(timeout=10_000)
    page.get_by_role("button", name="Run").last.wait_for(timeout=10_000)


@pytest.mark.browser
def test_app_mode_makes_a_result(page, app_mode):
    graph = read_canvas(CANVASES["StableVITON Try-On"])
    app_mode(set_widgets(graph, {"StableVITONSchedule": [1], "SaveImage": ["app_mode"]}))
    page.get_by_role("button", name="Run").last.click()
    page.locator("img[src*='filename=app_mode_']").first.wait_for(timeout=120_000)


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
    structures = {
        part["name"]: describe_structure(part, blueprints) for part in blueprints.values()
    }
    copies = [part for key, part in used.items() if key not in blueprints]
    copies = [part for part in copies if part["name"] in structures]  # with other values
    assert len(copies) == 3
    for part in copies:
        assert describe_structure(part, used) == structures[part["name"]]


def describe_structure(definition: dict, definitions: dict[str, dict]) -> dict:
    """What is equal in copies of a subgraph: its sockets, nodes and links, without ids and values.
    definitions: of the subgraphs in it, by id."""
    nodes = definition["nodes"]
    places = {node["id"]: place for place, node in enumerate(nodes)}
    kinds = [definitions.get(node["type"], {}).get("name", node["type"]) for node in nodes]
    ends = ("origin_id", "origin_slot", "target_id", "target_slot")
    links = [[link[end] for end in ends] for link in definition["links"]]
    return {
        "sockets": [[slot["name"] for slot in definition[side]] for side in ("inputs", "outputs")],
        "nodes": [(kind, node.get("title")) for kind, node in zip(kinds, nodes, strict=True)],
        "links": [[places.get(a, a), i, places.get(b, b), j] for a, i, b, j in links],
    }


@pytest.mark.browser
@pytest.mark.parametrize("node", ["StableVITONDetail", "StableVITONScore"])
def test_a_help_page_is_shown_with_its_image(server, page, node):
    page.evaluate(OPEN_GRAPH, read_canvas(CANVASES["StableVITON Try-On Correspondence"]))
    page.evaluate(SELECT, node)
    page.get_by_test_id("info-button").click()
    title = pack_nodes(server)[node]["display_name"]
    page.get_by_role("heading", name=title, exact=True).first.wait_for(timeout=10_000)
    image = page.locator(f"img[src*='{node}.jpg']").first
    image.wait_for(timeout=10_000)
    assert image.evaluate("image => image.complete && image.naturalWidth > 100")
