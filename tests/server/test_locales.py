"""The translations: complete, and where the web interface gets them."""

import json

import pytest

from helpers.browser import fetch, inputs_of, pack_nodes
from stableviton_core.serving.install import PACK

FILES = sorted((PACK / "locales").glob("*/nodeDefs.json"))


@pytest.fixture(params=FILES, ids=lambda file: file.parent.name)
def translation(request) -> tuple[str, dict]:
    return request.param.parent.name, json.loads(request.param.read_text(encoding="utf-8"))


def test_there_are_translations():
    assert {file.parent.name for file in FILES} >= {"de", "fr", "ja", "ko", "zh"}


def test_a_translation_covers_the_nodes_exactly(server, translation):
    _, translated = translation
    expected = {node: shape_of_node(info) for node, info in pack_nodes(server).items()}
    assert {node: shape_of_translation(entry) for node, entry in translated.items()} == expected


def shape_of_node(info: dict) -> dict:
    """The texts a node has: True for each."""
    tooltips = info.get("output_tooltips") or [None] * len(info["output"])
    return {
        "display_name": bool(info["display_name"]),
        "description": bool(info["description"]),
        "inputs": {
            name: {"name": True, "tooltip": "tooltip" in options}
            for name, (_, options) in inputs_of(info).items()
        },
        "outputs": {
            str(slot): {"name": True, "tooltip": bool(tooltip)}
            for slot, tooltip in enumerate(tooltips)
        },
    }


def shape_of_translation(entry: dict) -> dict:
    def texts(slot: dict) -> dict:
        return {key: bool(slot.get(key)) for key in ("name", "tooltip")}

    return {
        "display_name": bool(entry.get("display_name")),
        "description": bool(entry.get("description")),
        "inputs": {name: texts(slot) for name, slot in entry.get("inputs", {}).items()},
        "outputs": {name: texts(slot) for name, slot in entry.get("outputs", {}).items()},
    }


def test_a_translation_is_served(server, translation):
    language, translated = translation
    served = json.loads(fetch(server, "i18n"))[language]["nodeDefs"]
    assert {node: served.get(node) for node in translated} == translated
