"""The nodes of a graph that take a job's images and seed; whether a server can run the graph."""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import StableVITONError
from ...files import hash_bytes
from ..graph import Graph, find_title, get_title, set_input
from .jobs import ROLES, Job

TITLES = {"person": "Person", "garment": "Garment", "mask": "Mask", "densepose": "DensePose"}
RESULT = "Result"
SEEDS = ("seed", "noise_seed")
SCORE_CLASS = "StableVITONScore"
NodeInfo = Mapping[str, Any]  # a server's object_info: descriptions by node class


@dataclass(frozen=True)
class NodeBindings:
    """images: (node id, input) by role. seeds: (node id, input). result: id of the saving node.
    score: id of the node that scores the result, where the graph has exactly one."""

    images: Mapping[str, tuple[str, str]]
    seeds: Sequence[tuple[str, str]]
    result: str
    score: str | None = None


def override_inputs(graph: Graph, assignments: Sequence[str]) -> None:
    """Set inputs of a graph, from NODE.INPUT=VALUE with a node's id or title. VALUE is JSON, or
    else text. StableVITONError where there is no such node or input, or it is linked."""
    for assignment in assignments:
        target, equals, text = assignment.partition("=")
        name, dot, input_name = target.rpartition(".")
        if not equals or not dot:
            raise StableVITONError(f"--set is NODE.INPUT=VALUE, got {assignment!r}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        try:
            node = name if name in graph else find_title(graph, name)
            if isinstance(graph[node]["inputs"].get(input_name), list):
                raise StableVITONError("this input is linked to another node.")
            set_input(graph, node, input_name, value)
        except StableVITONError as error:
            raise StableVITONError(f"--set {target}: {error}") from error


def prepare_bindings(
    jobs: Sequence[Job], graph: Graph, info: NodeInfo, nodes: Mapping[str, str]
) -> NodeBindings:
    """The bindings for these jobs on a server with this object_info. nodes: as in `bind_nodes`.
    StableVITONError where the server cannot run them."""
    missing = sorted({entry["class_type"] for entry in graph.values()} - set(info))
    if missing:
        raise StableVITONError(f"it has no node {', '.join(missing)}. Install the pack there.")
    roles = sorted({role for job in jobs for role in job.images})
    bindings = bind_nodes(graph, info, roles, nodes)
    check_jobs(jobs, graph, info, bindings)
    problems = find_graph_problems(graph, info, bindings)
    if problems:
        listed = "\n  ".join(problems)
        raise StableVITONError(
            f"the graph asks for what is not there.\n  {listed}\nPut a missing file into that "
            "ComfyUI's models folder, or change the graph with --set NODE.INPUT=VALUE."
        )
    return bindings


def bind_nodes(
    graph: Graph, info: NodeInfo, roles: Sequence[str], nodes: Mapping[str, str]
) -> NodeBindings:
    """Find the nodes of the roles that the jobs have images for, and of the result.

    nodes: titles or ids that the user gave, by role and "result". info: describes all nodes of the
    graph. StableVITONError where a role has no node, and where the graph loads an image of a role
    that the jobs do not have.
    """
    images = {}
    for role in ROLES:
        if role in roles or nodes.get(role):
            node = _find_node(graph, nodes.get(role) or TITLES[role], role)
            images[role] = (node, _find_image_input(graph, node, info))
        elif _loads_image(graph, info, TITLES[role]):
            raise StableVITONError(
                f"the graph has a node {TITLES[role]!r}, and the pairs give no {role}. Add a "
                f"column {role!r} or --{role}s DIR, or use a graph that makes it, such as "
                "workflows/api/tryon_photo.json."
            )
    seeds = [
        (node, name)
        for node, entry in graph.items()
        for name, value in entry["inputs"].items()
        if name in SEEDS and not isinstance(value, list)
    ]
    result = _find_node(graph, nodes.get("result") or RESULT, "result")
    scores = [node for node, entry in graph.items() if entry["class_type"] == SCORE_CLASS]
    return NodeBindings(images, seeds, result, scores[0] if len(scores) == 1 else None)


def _find_node(graph: Graph, name: str, role: str) -> str:
    if name in graph:
        return name
    try:
        return find_title(graph, name)
    except StableVITONError as error:
        raise StableVITONError(f"{error} Name the {role}'s node with --{role}-node.") from error


def _loads_image(graph: Graph, info: NodeInfo, title: str) -> bool:
    """Whether a node of that title loads an image."""
    nodes = [node for node in graph if get_title(graph, node) == title]
    return any(_list_image_inputs(info, graph[node]["class_type"]) for node in nodes)


def _find_image_input(graph: Graph, node: str, info: NodeInfo) -> str:
    names = _list_image_inputs(info, graph[node]["class_type"])
    if not names:
        raise StableVITONError(
            f"{get_title(graph, node)!r} ({graph[node]['class_type']}) loads no image: it has no "
            "input with an upload button. Name a Load Image node."
        )
    return names[0]


def _list_image_inputs(info: NodeInfo, class_type: str) -> list[str]:
    """The inputs of a node class that take the name of an uploaded image."""
    declared = _list_inputs(info[class_type])
    return [name for name, (_, options) in declared.items() if options.get("image_upload")]


def _list_inputs(description: Mapping[str, Any]) -> dict[str, tuple[Any, dict[str, Any]]]:
    """The inputs of a node class: (type or list of choices, options) by name."""
    inputs = description.get("input", {})
    return {
        name: (declared[0], declared[1] if len(declared) > 1 else {})
        for kind in ("required", "optional")
        for name, declared in inputs.get(kind, {}).items()
    }


def fill_graph(graph: Graph, bindings: NodeBindings, images: Mapping[str, str], seed: int) -> Graph:
    """A copy of the graph for one job. images: names in the server's input folder, by role."""
    copied = copy.deepcopy(graph)
    for role, (node, name) in bindings.images.items():
        if role in images:
            copied[node]["inputs"][name] = images[role]
    for node, name in bindings.seeds:
        copied[node]["inputs"][name] = seed
    return copied


def hash_graph(graph: Graph, bindings: NodeBindings) -> str:
    """Hash of the graph without the inputs that a job fills in."""
    blank = fill_graph(graph, bindings, dict.fromkeys(bindings.images, ""), 0)
    return hash_bytes(json.dumps(blank, sort_keys=True).encode())[:16]


def check_jobs(jobs: Sequence[Job], graph: Graph, info: NodeInfo, bindings: NodeBindings) -> None:
    """StableVITONError where a job lacks an image that others have, has a seed out of range, or
    tries several and the graph does not score them."""
    if any(job.candidates > 1 for job in jobs) and (bindings.score is None or not bindings.seeds):
        raise StableVITONError(
            f"--best-of compares the scores of several seeds: the graph needs exactly one "
            f"{SCORE_CLASS} node, and a node with a seed, as workflows/api/"
            "tryon_correspondence.json has them."
        )
    for job in jobs:
        missing = bindings.images.keys() - job.images.keys()
        if missing:
            raise StableVITONError(
                f"{job.name} gives no {', '.join(sorted(missing))}, and other pairs do. Give it "
                "for all, or run them apart."
            )
    for node, name in bindings.seeds:
        declared = _list_inputs(info[graph[node]["class_type"]])
        if name not in declared:
            continue
        for seed in {seed for job in jobs for seed in (job.seeds[0], job.seeds[-1])}:
            if problem := _find_problem(seed, *declared[name], graph):
                raise StableVITONError(f"the {name} of {get_title(graph, node)!r} {problem}")


def find_graph_problems(graph: Graph, info: NodeInfo, bindings: NodeBindings) -> list[str]:
    """Inputs that are missing, linked to no node or out of range on a server that has all nodes."""
    filled_in = {*bindings.images.values(), *bindings.seeds}
    problems = []
    for node, entry in graph.items():
        name = f"{get_title(graph, node)!r} ({entry['class_type']})"
        description = info[entry["class_type"]]
        declared = _list_inputs(description)
        present = {key.partition(".")[0] for key in entry["inputs"]}  # autogrow: images.image0
        missing = set(description.get("input", {}).get("required", {})) - present
        problems += [f"{name}: the input {key!r} is missing" for key in sorted(missing)]
        for input_name, value in entry["inputs"].items():
            if input_name not in declared or (node, input_name) in filled_in:
                continue
            if problem := _find_problem(value, *declared[input_name], graph):
                problems.append(f"{name}: {input_name} {problem}")
    return problems


def _find_problem(value: Any, kind: Any, options: Mapping[str, Any], graph: Graph) -> str | None:
    """What is wrong with an input's value, if anything. kind: its type or list of choices."""
    if isinstance(value, dict):  # {"__value__": ...}, which ComfyUI unwraps
        return None
    if isinstance(value, list):
        linked = len(value) != 2 or str(value[0]) in graph
        return None if linked else f"is linked to a node {value[0]!r}, which is not there"
    choices = kind if isinstance(kind, list) else options.get("options")
    if choices is not None and not options.get("image_upload"):
        if value not in choices:
            listed = ", ".join(map(str, choices[:20])) or "nothing (the list is empty)"
            return f"is {value!r}, but can be {listed}"
    elif kind in ("INT", "FLOAT"):
        try:
            number = float(value)  # ComfyUI converts numbers given as text
        except (TypeError, ValueError):
            return f"is {value!r}, expected a number"
        if not options.get("min", number) <= number <= options.get("max", number):
            return f"is {value}, expected {options.get('min')} to {options.get('max')}"
    elif kind == "BOOLEAN" and not isinstance(value, bool):
        return f"is {value!r}, expected true or false"
    return None
