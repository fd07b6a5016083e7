"""Schema, help pages, translations and graphs say the same of every node."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.browser import fetch, inputs_of, pack_nodes
from helpers.graphs import BLUEPRINTS, CANVASES, list_placed_nodes, read_canvas, read_project
from stableviton_core.serving.install import FOLDER_NAME, PACK

NAME, VERSION = read_project("name"), read_project("version")
DOCS = PACK / "web" / "docs"
TRANSLATED_PAGES = ("de", "fr", "ja", "ko", "zh")
LANGUAGES = {*TRANSLATED_PAGES, "es", "ru", "zh-TW"}
NODES = {
    "StableVITONLoader",
    "StableVITONLora",
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


@pytest.fixture(scope="module")
def nodes(server) -> dict[str, dict]:
    """The entries of object_info for the nodes of this pack."""
    found = pack_nodes(server)
    assert set(found) == NODES, "the ids are permanent"
    return found


def test_nothing_drifts(nodes):
    """One list of all that differs, so that one run shows what to mend."""
    drift = [
        difference
        for check in (find_untold, find_page_drift, find_locale_drift, find_graph_drift)
        for difference in check(nodes)
    ]
    assert not drift, "\n".join(drift)


def find_untold(nodes: dict) -> Iterator[str]:
    """Inputs and outputs without a tooltip, nodes without a description or a word to search for."""
    for node, info in nodes.items():
        for name, (_, options) in inputs_of(info).items():
            if not options.get("tooltip"):
                yield f"{node}.{name} has no tooltip"
        tooltips = info.get("output_tooltips") or [None] * len(info["output"])
        for name, tooltip in zip(info["output_name"], tooltips, strict=True):
            if not tooltip:
                yield f"{node}, output {name}, has no tooltip"
        if not info["description"]:
            yield f"{node} has no description"
        if "try on" not in info["search_aliases"]:
            yield f"{node} is not found by: try on"


def find_page_drift(nodes: dict) -> Iterator[str]:
    files = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    expected = {f"{node}.md" for node in nodes}
    expected |= {f"{node}/{locale}.md" for node in nodes for locale in TRANSLATED_PAGES}
    yield from (f"web/docs/{name} is of no node or language" for name in files - expected)
    yield from (f"web/docs/{name} is missing" for name in expected - files)
    images = {path.stem for path in (DOCS / "images").iterdir()}
    yield from (f"web/docs/images/{name}.jpg is of no node" for name in images - set(nodes))
    yield from (f"web/docs/images/{node}.jpg is missing" for node in set(nodes) - images)
    for name in sorted(expected & files):
        node = name.removesuffix(".md").split("/")[0]
        lines = (DOCS / name).read_text(encoding="utf-8").splitlines()
        title = lines[0].removeprefix("# ")
        if title != read_display_name(nodes, node, name):
            yield f"web/docs/{name} is titled {title}"
        listed = {
            identifier
            for line in lines
            if line.startswith("- `")
            for identifier in re.findall("`(.+?)`", re.split(":|：", line, maxsplit=1)[0])
        }
        told = set(inputs_of(nodes[node])) | set(nodes[node]["output_name"])
        yield from (f"web/docs/{name} does not list {item}" for item in told - listed)
        if not any(line.endswith(f"](images/{node}.jpg)") for line in lines):
            yield f"web/docs/{name} shows no images/{node}.jpg"
        if any(line.startswith("|") for line in lines):
            yield f"web/docs/{name} has a table, which the help panel cuts"


def read_display_name(nodes: dict, node: str, page: str) -> str:
    """In the language of a page."""
    if "/" not in page:
        return nodes[node]["display_name"]
    return read_locale(Path(page).stem, "nodeDefs")[node]["display_name"]


def read_locale(language: str, name: str) -> dict:
    file = PACK / "locales" / language / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8"))


def find_locale_drift(nodes: dict) -> Iterator[str]:
    """Every text of every node, and every level of its categories, in every language."""
    languages = {folder.name for folder in (PACK / "locales").iterdir()}
    if languages != LANGUAGES:
        yield f"locales has {languages}, expected {LANGUAGES}"
    texts = {node: list_texts(info) for node, info in nodes.items()}
    levels = {level for info in nodes.values() for level in info["category"].split("/")}
    for language in sorted(languages):
        translated = read_locale(language, "nodeDefs")
        if set(translated) != set(texts):
            yield f"locales/{language} has other nodes: {set(translated) ^ set(texts)}"
        for node in set(translated) & set(texts):
            given = flatten(translated[node])
            different = texts[node] ^ {key for key, text in given.items() if text}
            yield from (f"locales/{language}: {node} {key}" for key in different)
        categories = read_locale(language, "main")["nodeCategories"]
        if set(categories) != levels or not all(categories.values()):
            yield f"locales/{language}/main.json has the categories {categories}"


def list_texts(info: dict) -> set[str]:
    """The texts of a node, as keys of a translation."""
    keys = {"display_name", "description"}
    for name in inputs_of(info):
        keys |= {f"inputs/{name}/name", f"inputs/{name}/tooltip"}
    for slot in range(len(info["output"])):
        keys |= {f"outputs/{slot}/name", f"outputs/{slot}/tooltip"}
    return keys


def flatten(entry: dict, prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in entry.items():
        flat |= (
            flatten(value, f"{prefix}{key}/") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def find_graph_drift(nodes: dict) -> Iterator[str]:
    """Sockets, numbers of widgets and the pack's version in the canvas graphs and blueprints."""
    for file in (*CANVASES.values(), *BLUEPRINTS.values()):
        for placed in list_placed_nodes(read_canvas(file)):
            if placed["type"] not in nodes:
                continue
            info, where = nodes[placed["type"]], f"{file.name}: {placed['type']}"
            names = [slot["name"] for slot in placed["inputs"]]
            yield from (
                f"{where} has no input {name}" for name in set(names) - set(inputs_of(info))
            )
            if [slot["name"] for slot in placed["outputs"]] != list(info["output_name"]):
                yield f"{where} has other outputs than the node"
            widgets = [kind for kind, options in inputs_of(info).values() if is_widget(kind)]
            if len(placed["widgets_values"]) != len(widgets):
                yield f"{where} has {len(placed['widgets_values'])} values, not {len(widgets)}"
            properties = placed["properties"]
            if (properties.get("cnr_id"), properties.get("ver")) != (NAME, VERSION):
                yield f"{where} names another pack or version: {properties}"


def is_widget(kind: str | list) -> bool:
    return isinstance(kind, list) or kind in ("COMBO", "INT", "FLOAT", "BOOLEAN", "STRING")


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_a_translation_is_served(server, language):
    served = json.loads(fetch(server, "i18n"))[language]
    translated = read_locale(language, "nodeDefs")
    assert {node: served["nodeDefs"].get(node) for node in translated} == translated
    categories = read_locale(language, "main")["nodeCategories"]
    assert categories.items() <= served["nodeCategories"].items()


@pytest.mark.parametrize("page", ["StableVITONCrop.md", "StableVITONCrop/zh.md"])
def test_a_help_page_is_served(server, page):
    assert fetch(server, f"extensions/{FOLDER_NAME}/docs/{page}") == (DOCS / page).read_bytes()
