"""The graphs for photos, through the server."""

import shutil
from pathlib import Path

import numpy as np

from helpers.runs import download_image, run_graph
from stableviton_core.dataset.check_data import check_data
from stableviton_core.images import read_image, write_image
from stableviton_core.serving.graph import find_class, find_title, load_graph
from stableviton_core.serving.install import PACK

PHOTO = PACK / "tests" / "golden" / "person" / "astronaut.jpg"
GARMENT = PACK / "demo" / "garment.png"


def run(server, graph: dict, photo: Path) -> dict:
    """Queue a graph on a photo and the demo's garment -> the outputs by node."""
    return run_graph(server, graph, {"Person": photo, "Garment": GARMENT})


def test_two_photos_become_one_image(server, tmp_path):
    photo = read_image(PHOTO)
    file = tmp_path / "photo.png"  # every host decodes it alike
    write_image(file, photo)
    graph = load_graph(PACK / "workflows" / "api" / "tryon_photo.json")
    graph[find_class(graph, "StableVITONSchedule")]["inputs"]["steps"] = 2
    outputs = run(server, graph, file)
    result = download_image(server, outputs[find_title(graph, "Result")]["images"][0])
    assert result.shape == photo.shape
    changed = (np.abs(result.astype(int) - photo) > 1).any(axis=-1)
    assert 0.1 < changed.mean() < 0.5
    assert not changed[:130].any(), "the face"
    assert changed[300, 190:240].all(), "the chest"
    shown = outputs[find_class(graph, "StableVITONAgnosticMask")]["images"]  # on the node
    agnostic = download_image(server, shown[0])
    assert agnostic.shape == (512, 384, 3) and (agnostic == 128).all(axis=-1).mean() > 0.2


def test_two_passes_make_one_image(server, tmp_path):
    """At half the graph's sizes, with two steps a pass."""
    photo = read_image(PHOTO)
    file = tmp_path / "photo.png"
    write_image(file, photo)
    graph = load_graph(PACK / "workflows" / "api" / "tryon_photo_hires.json")
    for node in graph.values():
        inputs = node["inputs"]
        for side in ("width", "height"):
            if side in inputs:
                inputs[side] //= 2
        if "steps" in inputs:
            inputs["steps"] = 2
    enlarged = graph[find_class(graph, "ImageScale")]["inputs"]
    assert (enlarged["width"], enlarged["height"]) == (384, 512)
    outputs = run(server, graph, file)
    result = download_image(server, outputs[find_title(graph, "Result")]["images"][0])
    assert result.shape == photo.shape
    changed = (np.abs(result.astype(int) - photo) > 1).any(axis=-1)
    assert 0.1 < changed.mean() < 0.5 and not changed[:130].any()


def test_the_data_set_graph_writes_what_training_reads(server):
    data = Path(server.base) / "output" / "viton"
    shutil.rmtree(data, ignore_errors=True)  # of other tests of the graph
    run(server, load_graph(PACK / "workflows" / "api" / "prepare_dataset.json"), PHOTO)
    (person,) = (data / "test" / "image").iterdir()
    (garment,) = (data / "test" / "cloth").iterdir()
    assert (person.name, garment.name) == ("photo.jpg_00001_.png", "garment.png_00001_.png")
    (data / "test_pairs.txt").write_text(f"{person.name} {garment.name}\n")
    problems, counts = check_data(data, ["test"])
    assert problems == [] and "1 pairs, 1 with a garment mask" in counts


def test_a_graph_with_the_former_names_of_crop_and_stitch(server, tmp_path):
    """Frame and Unframe, as graphs of before the first release have them."""
    photo = read_image(PHOTO)
    file = tmp_path / "photo.png"
    write_image(file, photo)
    inputs = {"photo": ["1", 0], "width": 384, "height": 512, "around": "person"}
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": ""}},
        "2": {"class_type": "StableVITONFrame", "inputs": inputs},
        "3": {
            "class_type": "StableVITONUnframe",
            "inputs": {"frame": ["2", 2], "image": ["2", 0], "mask": ["2", 1]},
        },
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "old"}},
    }
    graph["5"] = {"class_type": "LoadImage", "inputs": {"image": ""}}
    for number, title in enumerate(("Person", "Frame", "Unframe", "Result", "Garment"), start=1):
        graph[str(number)]["_meta"] = {"title": title}
    outputs = run(server, graph, file)
    result = download_image(server, outputs["4"]["images"][0])
    changed = (np.abs(result.astype(int) - photo) > 1).any(axis=-1)
    assert changed.mean() < 0.02, "the mask was the padding, of which the photo has none"
