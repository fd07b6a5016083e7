"""Every shipped graph runs: as it is, with one step and at a small size."""

import numpy as np
import pytest

from helpers.graphs import CANVASES, read_twin
from helpers.runs import download_image, run_graph
from stableviton_core.images import read_image
from stableviton_core.serving.graph import Graph, find_class, find_title
from stableviton_core.serving.install import PACK

SCALES = {384: 2, 768: 4}  # by which a working image is smaller here, by its width
IMAGE_COUNTS = {name: 3 if "Many" in name else 1 for name in CANVASES}  # of the result


def shorten(graph: Graph) -> Graph:
    for node in graph.values():
        inputs = node["inputs"]
        if "steps" in inputs:
            inputs["steps"] = 1
        if "width" in inputs:
            scale = SCALES[inputs["width"]]
            inputs["width"], inputs["height"] = inputs["width"] // scale, inputs["height"] // scale
    return graph


@pytest.mark.parametrize("name", IMAGE_COUNTS)
def test_a_graph_runs(server, name):
    graph = shorten(read_twin(name))
    outputs = run_graph(server, graph)
    saved = [node for node, content in graph.items() if content["class_type"] == "SaveImage"]
    assert saved and all(outputs[node]["images"] for node in saved)
    if name == "StableVITON Prepare Dataset":
        assert len(saved) == 7
        return
    images = outputs[find_title(graph, "Result")]["images"]
    assert len(images) == IMAGE_COUNTS[name]
    person = graph[find_title(graph, "Person")]["inputs"]["image"].removeprefix("stableviton_")
    photo = read_image(PACK / "demo" / person)
    for image in images:
        result = download_image(server, image)
        assert result.shape == photo.shape and (result != photo).any()


def test_the_best_of_a_batch_is_the_result(server):
    graph = shorten(read_twin("StableVITON Try-On Best Of"))
    decoded = {"images": [find_class(graph, "VAEDecode"), 0], "filename_prefix": "all"}
    graph["all"] = {"class_type": "SaveImage", "inputs": decoded}
    outputs = run_graph(server, graph)
    scores = outputs[find_class(graph, "StableVITONScore")]["score"]
    assert len(set(scores)) == 4
    result = download_image(server, outputs[find_title(graph, "Result")]["images"][0]).astype(int)
    distances = [
        np.abs(download_image(server, image) - result).mean() for image in outputs["all"]["images"]
    ]
    assert np.argmin(distances) == np.argmax(scores)
