"""The shipped graphs: for the canvas, and as they are queued."""

import json
import re
from pathlib import Path

from stableviton_core.serving.graph import Graph, load_graph
from stableviton_core.serving.install import PACK

WORKFLOWS = PACK / "workflows"
CANVASES = {file.stem: file for file in sorted(WORKFLOWS.glob("*.json"))}
BLUEPRINTS = {file.stem: file for file in sorted((PACK / "subgraphs").glob("*.json"))}


def name_twin(title: str) -> str:
    """The name of a graph in `workflows/api`: StableVITON Try-On Photo -> tryon_photo."""
    return title.removeprefix("StableVITON ").lower().replace("-", "").replace(" ", "_")


def find_twin(title: str) -> Path:
    return WORKFLOWS / "api" / f"{name_twin(title)}.json"


def read_canvas(file: Path) -> dict:
    """A graph as the web interface saves it."""
    return json.loads(file.read_text(encoding="utf-8"))


def keep_titles(queued: Graph) -> Graph:
    """A graph as it is queued, without what newer web interfaces add: of its nodes' `_meta` the
    title."""
    return {
        number: node | {"_meta": {"title": node["_meta"]["title"]}}
        for number, node in queued.items()
    }


def read_twin(title: str) -> Graph:
    """The same as it is queued."""
    return load_graph(find_twin(title))


def find_blueprint_id(name: str) -> str:
    """Of the subgraph that a blueprint is: the type of its nodes."""
    (node,) = read_canvas(BLUEPRINTS[name])["nodes"]
    return node["type"]


def set_widgets(graph: dict, values: dict[str, list]) -> dict:
    """Set the values of all widgets of the nodes of some types, in subgraphs as well."""
    for node in list_placed_nodes(graph):
        if node["type"] in values:
            node["widgets_values"] = values[node["type"]]
    return graph


def read_project(key: str) -> str:
    """Of the pack in the registry: name or version."""
    project = (PACK / "pyproject.toml").read_text(encoding="utf-8")
    (value,) = re.findall(f'^{key} = "(.*)"$', project, re.M)
    return value


def list_placed_nodes(graph: dict) -> list[dict]:
    """The nodes of a canvas graph and of its subgraphs."""
    definitions = graph.get("definitions", {}).get("subgraphs", [])
    return [node for part in (graph, *definitions) for node in part["nodes"]]
