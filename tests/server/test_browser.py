"""The web interface: the shipped graphs, help pages and tooltips."""

import json

import pytest

from helpers.browser import fetch, find_browser, inputs_of, object_info, pack_nodes
from stableviton_core.serving.graph import load_graph
from stableviton_core.serving.install import FOLDER_NAME, PACK

WORKFLOWS = PACK / "workflows"
GRAPHS = sorted(file.stem for file in WORKFLOWS.glob("*.json"))
NODES = {
    "StableVITONLoader",
    "StableVITONApply",
    "StableVITONConditioning",
    "StableVITONPLMS",
    "StableVITONSchedule",
    "StableVITONReuse",
    "StableVITONPasteBack",
    "StableVITONCrop",
    "StableVITONStitch",
    "StableVITONPose",
    "StableVITONParse",
    "StableVITONDensePose",
    "StableVITONAgnosticMask",
    "StableVITONGarment",
    "StableVITONCorrespondence",
    "StableVITONDetail",
    "StableVITONScore",
}
FRONTEND_ONLY = {"MarkdownNote"}
TO_LOOK_AT = {"ImageCompare"}  # on the canvas; over HTTP it would cost time and be thrown away
WIDGETS = {"COMBO", "INT", "FLOAT", "BOOLEAN", "STRING", "IMAGECOMPARE"}
BYPASS = 4  # mode of a node
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

# The frontend opens a graph of its own at the end of its start.
READY = "() => window.app?.extensionManager?.workflow?.activeWorkflow && window.app.canvas?.graph"
OPEN_GRAPH = """async (graph) => {
    await window.app.loadGraphData(graph);
    const types = window.app.graph.nodes.map((node) => node.type);
    const { output } = await window.app.graphToPrompt();
    return { missing: types.filter((type) => !(type in LiteGraph.registered_node_types)), output };
}"""


@pytest.fixture(scope="module")
def page(server):
    """The web interface of the server in a headless browser."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs the package playwright: pip install playwright"
    )
    browser = find_browser()
    if browser is None:
        pytest.skip("needs a Chromium, Chrome or Edge: install one, or name it in CHROME_PATH")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=browser, headless=True, args=FLAGS)
        page = running.new_page()
        page.goto(server.url)
        page.wait_for_function(READY, timeout=60_000)
        yield page
        running.close()


def canvas(name: str) -> dict:
    """A graph as the web interface saves it."""
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def api(name: str) -> dict:
    """The same as it is queued."""
    return load_graph(WORKFLOWS / "api" / f"{name}.json")


def test_there_are_graphs():
    others = ["tryon_correspondence", "tryon_fast", "tryon_photo", "tryon_photo_hires"]
    assert ["prepare_dataset", "tryon", *others] == GRAPHS


@pytest.mark.browser
@pytest.mark.parametrize("name", GRAPHS)
def test_the_canvas_graph_makes_the_api_graph(page, name):
    opened = page.evaluate(OPEN_GRAPH, canvas(name))
    assert opened["missing"] == []
    queued = {
        number: node
        for number, node in opened["output"].items()
        if node["class_type"] not in TO_LOOK_AT
    }
    assert queued == api(name)


@pytest.mark.browser
@pytest.mark.parametrize(
    ("name", "types"), [("tryon", ["StableVITONPasteBack"]), ("tryon_photo", ["StableVITONStitch"])]
)
def test_a_bypass_passes_the_tryon_on(page, name, types):
    graph = canvas(name)
    for node in graph["nodes"]:
        if node["type"] in types:
            node["mode"] = BYPASS
    prompt = page.evaluate(OPEN_GRAPH, graph)["output"]
    assert not {node["class_type"] for node in prompt.values()} & set(types)
    target = next(node for node in prompt.values() if node["_meta"]["title"] == "Result")
    source = prompt[target["inputs"]["images"][0]]
    while source["class_type"] in ("StableVITONStitch", "StableVITONPasteBack"):
        name = "image" if source["class_type"] == "StableVITONStitch" else "tryon"
        source = prompt[source["inputs"][name][0]]
    assert source["class_type"] == "VAEDecode"


@pytest.mark.browser
def test_an_unknown_node_is_seen_as_missing(page):
    graph = canvas("tryon")
    graph["nodes"][0]["type"] = "NoSuchNode"
    assert page.evaluate(OPEN_GRAPH, graph)["missing"] == ["NoSuchNode"]


@pytest.mark.parametrize("name", GRAPHS)
def test_the_api_graph_fits_the_nodes(server, name):
    graph, nodes = api(name), object_info(server)
    for node in graph.values():
        info = nodes[node["class_type"]]
        known, given = inputs_of(info), node["inputs"]
        assert set(info["input"].get("required", {})) <= set(given) <= set(known)
        for name, value in given.items():
            check_input(known[name], value, graph, nodes)


def check_input(declared: tuple, value, graph: dict, nodes: dict) -> None:
    kind, options = declared
    if isinstance(value, list):
        source, slot = value
        assert nodes[graph[source]["class_type"]]["output"][slot] == kind
    elif options.get("image_upload"):
        assert (PACK / "demo" / value).is_file()
    elif kind == "COMBO" or isinstance(kind, list):
        assert value in (options["options"] if kind == "COMBO" else kind)
    elif kind in ("INT", "FLOAT"):
        assert options["min"] <= value <= options["max"]
    else:
        assert isinstance(value, {"BOOLEAN": bool, "STRING": str}[kind])


@pytest.mark.parametrize("name", GRAPHS)
def test_the_canvas_graph_fits_the_nodes(server, name):
    graph, nodes = canvas(name), object_info(server)
    placed = {node["id"]: node for node in graph["nodes"] if node["type"] not in FRONTEND_ONLY}
    linked = {node: set() for node in placed}
    for _, source, slot, target, position, kind in graph["links"]:
        name = placed[target]["inputs"][position]["name"]
        linked[target].add(name)
        assert nodes[placed[source]["type"]]["output"][slot] == kind
        assert inputs_of(nodes[placed[target]["type"]])[name][0] == kind
    for node, names in linked.items():
        required = nodes[placed[node]["type"]]["input"].get("required", {})
        sockets = {name for name, (kind, *_) in required.items() if is_socket(kind)}
        assert sockets <= names


def is_socket(kind: str | list) -> bool:
    return not isinstance(kind, list) and kind not in WIDGETS


def test_the_graphs_are_offered_as_templates(server):
    templates = json.loads(fetch(server, "workflow_templates"))
    assert sorted(templates[FOLDER_NAME]) == GRAPHS
    for name in GRAPHS:
        image = fetch(server, f"api/workflow_templates/{FOLDER_NAME}/{name}.jpg")
        assert image == (WORKFLOWS / f"{name}.jpg").read_bytes()


def test_every_node_has_a_help_page(server):
    nodes = pack_nodes(server)
    assert set(nodes) >= NODES
    for node in nodes:
        page = fetch(server, f"extensions/{FOLDER_NAME}/docs/{node}.md").decode("utf-8")
        assert page.startswith(f"# {nodes[node]['display_name']}\n")
        assert [name for name in inputs_of(nodes[node]) if f"`{name}`" not in page] == []


def test_every_input_has_a_tooltip(server):
    bare = [
        f"{node}.{name}"
        for node, info in pack_nodes(server).items()
        for name, (_, options) in inputs_of(info).items()
        if not options.get("tooltip")
    ]
    assert bare == []
