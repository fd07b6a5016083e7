"""Which nodes of a graph take a job's pictures and seed, and whether a server can run the graph."""

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import StableVITONError
from ..graph import Graph, find_title, set_input, title_of
from .jobs import ROLES, Job

TITLES = {"person": "Person", "garment": "Garment", "mask": "Mask", "densepose": "DensePose"}
RESULT = "Result"
SEEDS = ("seed", "noise_seed")
Info = Mapping[str, Any]  # a server's object_info


@dataclass(frozen=True)
class Wiring:
    """pictures: node and input by role. seeds: nodes and inputs. result: the node that saves."""

    pictures: Mapping[str, tuple[str, str]]
    seeds: Sequence[tuple[str, str]]
    result: str


def override(graph: Graph, assignments: Sequence[str]) -> None:
    """Set inputs, from NODE.INPUT=VALUE with a node's id or title. A value is JSON, or a text.
    StableVITONError where there is no such node or input, or it is a link."""
    for assignment in assignments:
        place, equals, text = assignment.partition("=")
        name, dot, input_name = place.rpartition(".")
        if not equals or not dot:
            raise StableVITONError(f"--set is NODE.INPUT=VALUE, got {assignment!r}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        try:
            node = name if name in graph else find_title(graph, name)
            if isinstance(graph[node]["inputs"].get(input_name), list):
                raise StableVITONError(f"--set {place}: this input is linked to another node.")
            set_input(graph, node, input_name, value)
        except StableVITONError as error:
            raise StableVITONError(f"--set {place}: {error}") from error


def wire(graph: Graph, info: Info, given: Sequence[str], nodes: Mapping[str, str]) -> Wiring:
    """Find the nodes of the roles that the jobs give, and of the result. nodes: titles or ids that
    the user named, by role and "result". info: has all of the nodes. StableVITONError where a role
    has no node, and where a picture that the graph wants is not given."""
    pictures = {}
    for role in ROLES:
        named = nodes.get(role)
        if role in given or named:
            node = _node(graph, named or TITLES[role], role)
            pictures[role] = (node, _picture_input(graph, node, info))
        elif _wants_picture(graph, info, TITLES[role]):
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
    return Wiring(pictures, seeds, _node(graph, nodes.get("result") or RESULT, "result"))


def _node(graph: Graph, name: str, role: str) -> str:
    if name in graph:
        return name
    try:
        return find_title(graph, name)
    except StableVITONError as error:
        raise StableVITONError(f"{error} Name the {role}'s node with --{role}-node.") from error


def _wants_picture(graph: Graph, info: Info, title: str) -> bool:
    """Whether a node of that title loads a picture."""
    nodes = [node for node in graph if title_of(graph, node) == title]
    return any(_uploads(info, graph[node]["class_type"]) for node in nodes)


def _picture_input(graph: Graph, node: str, info: Info) -> str:
    uploads = _uploads(info, graph[node]["class_type"])
    if not uploads:
        raise StableVITONError(
            f"{title_of(graph, node)!r} ({graph[node]['class_type']}) loads no picture: it has no "
            "input with an upload button. Name a Load Image node."
        )
    return uploads[0]


def _uploads(info: Info, class_type: str) -> list[str]:
    """The inputs of a node that take the name of an uploaded picture."""
    declared = _declared(info[class_type])
    return [name for name, (_, options) in declared.items() if options.get("image_upload")]


def _declared(node: Mapping[str, Any]) -> dict[str, tuple[Any, dict[str, Any]]]:
    """A node's inputs: their type, or list of choices, and their options."""
    inputs = node.get("input", {})
    return {
        name: (declared[0], declared[1] if len(declared) > 1 else {})
        for kind in ("required", "optional")
        for name, declared in inputs.get(kind, {}).items()
    }


def filled(graph: Graph, wiring: Wiring, images: Mapping[str, str], seed: int) -> Graph:
    """The graph for one job. images: names in the server's input folder, by role."""
    own = copy.deepcopy(graph)
    for role, (node, name) in wiring.pictures.items():
        if role in images:
            own[node]["inputs"][name] = images[role]
    for node, name in wiring.seeds:
        own[node]["inputs"][name] = seed
    return own


def graph_hash(graph: Graph, wiring: Wiring) -> str:
    """Of everything but what a job fills in."""
    blank = filled(graph, wiring, dict.fromkeys(wiring.pictures, ""), 0)
    return hashlib.sha256(json.dumps(blank, sort_keys=True).encode()).hexdigest()[:16]


def check_jobs(jobs: Sequence[Job], graph: Graph, info: Info, wiring: Wiring) -> None:
    """StableVITONError where a job lacks a picture that others give, or has a seed out of range."""
    for job in jobs:
        lacking = wiring.pictures.keys() - job.pictures.keys()
        if lacking:
            raise StableVITONError(
                f"{job.name} gives no {', '.join(sorted(lacking))}, and other pairs do. Give it "
                "for all, or run them apart."
            )
    for node, name in wiring.seeds:
        declared = _declared(info[graph[node]["class_type"]])
        if name not in declared:
            continue
        kind, options = declared[name]
        for seed in {job.seed for job in jobs}:
            for reason in _wrong(seed, kind, options, graph):
                raise StableVITONError(f"the {name} of {title_of(graph, node)!r} {reason}")


def problems(graph: Graph, info: Info, wiring: Wiring) -> list[str]:
    """Why a server that has all of its nodes could not run the graph: inputs that are missing or
    out of their range."""
    filled_in = {*wiring.pictures.values(), *wiring.seeds}
    found = []
    for node, entry in graph.items():
        name = f"{title_of(graph, node)!r} ({entry['class_type']})"
        told = info[entry["class_type"]]
        declared = _declared(told)
        given = {key.partition(".")[0] for key in entry["inputs"]}  # growing inputs: images.image0
        missing = set(told.get("input", {}).get("required", {})) - given
        found += [f"{name}: the input {lacking!r} is missing" for lacking in sorted(missing)]
        for input_name, value in entry["inputs"].items():
            if input_name in declared and (node, input_name) not in filled_in:
                for reason in _wrong(value, *declared[input_name], graph):
                    found.append(f"{name}: {input_name} {reason}")
    return found


def _wrong(value: Any, kind: Any, options: Mapping[str, Any], graph: Graph) -> Iterator[str]:
    if isinstance(value, dict):  # a value in ComfyUI's wrapping
        return
    if isinstance(value, list):
        if len(value) == 2 and str(value[0]) not in graph:
            yield f"is linked to a node {value[0]!r}, which is not there"
        return
    choices = kind if isinstance(kind, list) else options.get("options")
    if choices is not None and not options.get("image_upload"):
        if value not in choices:
            listed = ", ".join(map(str, choices[:20])) or "nothing (the list is empty)"
            yield f"is {value!r}, but can be {listed}"
    elif kind in ("INT", "FLOAT"):
        try:
            number = float(value)  # ComfyUI takes texts that are numbers, too
        except (TypeError, ValueError):
            yield f"is {value!r}, expected a number"
            return
        if not options.get("min", number) <= number <= options.get("max", number):
            yield f"is {value}, expected {options.get('min')} to {options.get('max')}"
    elif kind == "BOOLEAN" and not isinstance(value, bool):
        yield f"is {value!r}, expected true or false"
