"""Graphs in ComfyUI's API format: {node id: {class_type, inputs, _meta: {title}}}."""

import json
from pathlib import Path
from typing import Any

from ..errors import StableVITONError

Graph = dict[str, dict[str, Any]]


def load_graph(path: Path) -> Graph:
    """Read a graph. StableVITONError when the file is missing or not a graph in the API format."""
    try:
        graph = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StableVITONError(f"The graph {path} cannot be read: {error}") from error
    nodes = graph.values() if isinstance(graph, dict) else [graph]
    if not all(
        isinstance(node, dict) and {"class_type", "inputs"} <= node.keys() for node in nodes
    ):
        raise StableVITONError(
            f"{path} is no graph in the API format, where each entry is a node with its "
            "class_type and inputs. In ComfyUI, choose File > Export (API)."
        )
    return graph


def get_title(graph: Graph, node: str) -> str:
    """The node's title, or its class where it has none."""
    return graph[node].get("_meta", {}).get("title") or graph[node]["class_type"]


def find_title(graph: Graph, title: str) -> str:
    """The id of the node with that title. StableVITONError unless there is exactly one."""
    nodes = [node for node in graph if get_title(graph, node) == title]
    if len(nodes) != 1:
        titles = ", ".join(sorted(get_title(graph, node) for node in graph))
        raise StableVITONError(
            f"Expected one node with the title {title!r} in the graph, found {len(nodes)}. "
            f"The titles in it: {titles}."
        )
    return nodes[0]


def find_class(graph: Graph, class_type: str) -> str:
    """The id of the node of that class. StableVITONError unless there is exactly one."""
    nodes = [node for node in graph if graph[node]["class_type"] == class_type]
    if len(nodes) != 1:
        classes = ", ".join(sorted({node["class_type"] for node in graph.values()}))
        raise StableVITONError(
            f"Expected one {class_type} node in the graph, found {len(nodes)}. "
            f"The classes in it: {classes}."
        )
    return nodes[0]


def set_input(graph: Graph, node: str, name: str, value: Any) -> None:
    """Set an input. StableVITONError when the node has none of that name."""
    inputs = graph[node]["inputs"]
    if name not in inputs:
        raise StableVITONError(
            f"The node {get_title(graph, node)!r} ({graph[node]['class_type']}) has no input "
            f"{name!r}; it has {', '.join(inputs) or 'none'}."
        )
    inputs[name] = value


def set_image(graph: Graph, title: str, image: str) -> None:
    """Set the image of the Load Image node with that title: a name in the server's input folder."""
    set_input(graph, find_title(graph, title), "image", image)
