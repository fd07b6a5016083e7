"""Every shipped graph runs: as it is, with one step and at a small size."""

import asyncio

import pytest
import torch
from safetensors.torch import save_file

from helpers.checkpoints import SMALL, write_checkpoint
from helpers.golden import fill
from helpers.graphs import CANVASES, read_twin
from helpers.loras import write_lora
from stableviton_core.images import decode_image, read_image
from stableviton_core.serving import client
from stableviton_core.serving.graph import Graph, find_class, find_title
from stableviton_core.serving.install import PACK

SCALES = {384: 2, 768: 4}  # by which a working image is smaller here, by its width
NAMES = {name: 3 if "Many" in name else 1 for name in CANVASES}  # images of the result


def shorten(graph: Graph) -> Graph:
    for node in graph.values():
        inputs = node["inputs"]
        if "steps" in inputs:
            inputs["steps"] = 1
        if "width" in inputs:
            scale = SCALES[inputs["width"]]
            inputs["width"], inputs["height"] = inputs["width"] // scale, inputs["height"] // scale
    return graph


def run(server, graph: Graph) -> dict:
    async def action() -> dict:
        async with client.connect(server.url) as session:
            return await client.run(session, graph)

    return asyncio.run(action())


def download(server, image: dict):
    async def action() -> bytes:
        async with client.connect(server.url) as session:
            return await client.download(session, image)

    return decode_image(asyncio.run(action()))


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_runs(server, name):
    graph = shorten(read_twin(name))
    outputs = run(server, graph)
    saved = [node for node, content in graph.items() if content["class_type"] == "SaveImage"]
    assert saved and all(outputs[node]["images"] for node in saved)
    if name == "StableVITON Prepare Dataset":
        assert len(saved) == 7
        return
    images = outputs[find_title(graph, "Result")]["images"]
    assert len(images) == NAMES[name]
    person = graph[find_title(graph, "Person")]["inputs"]["image"].removeprefix("stableviton_")
    photo = read_image(PACK / "demo" / person)
    for image in images:
        result = download(server, image)
        assert result.shape == photo.shape and (result != photo).any()


def test_the_best_of_a_batch_is_the_result(server):
    graph = shorten(read_twin("StableVITON Try-On Best Of"))
    report = run(server, graph)[find_class(graph, "StableVITONScore")]
    assert len(report["score"]) == 4 and report["score"][0] != report["score"][1]


def write_pose_adapter(path) -> None:
    """A T2I-Adapter of the small checkpoint's size, which ComfyUI loads as a ControlNet."""
    channels = [SMALL.network.model_channels * factor for factor in (1, 2, 4, 4)]
    shapes = {"conv_in": (channels[0], 3 * 8 * 8, 3)}
    for level, width in enumerate(channels):
        for block in range(2):
            before = channels[level - 1] if level and not block else width
            if before != width:
                shapes[f"body.{2 * level + block}.in_conv"] = (width, before, 1)
            shapes[f"body.{2 * level + block}.block1"] = (width, width, 3)
            shapes[f"body.{2 * level + block}.block2"] = (width, width, 1)
    weights: dict[str, torch.Tensor] = {}
    for name, (rows, columns, side) in shapes.items():
        shape = (rows, columns, side, side)
        weights[f"{name}.weight"] = fill(f"adapter/{name}", shape, (columns * side**2) ** -0.5)
        weights[f"{name}.bias"] = torch.zeros(rows)
    save_file(weights, path)


def test_a_lora_and_a_controlnet_change_the_result(server):
    """The bypassed nodes of the graph, with files of the small test checkpoint's size."""
    models = server.base / "models"
    write_checkpoint(models / "stableviton" / "small.safetensors")
    (models / "loras").mkdir(exist_ok=True)
    (models / "controlnet").mkdir(exist_ok=True)
    lora = write_lora(models / "loras" / "small.safetensors", alpha=20.0)
    write_pose_adapter(models / "controlnet" / "pose.safetensors")
    graph = shorten(read_twin("StableVITON Try-On LoRA ControlNet"))
    control = {"image": [find_class(graph, "StableVITONPose"), 1], "strength": 5.0}
    loader = find_class(graph, "StableVITONLoader")
    graph[loader]["inputs"]["ckpt_name"] = "small.safetensors"
    encode, sample = (
        find_class(graph, kind) for kind in ("StableVITONConditioning", "SamplerCustom")
    )
    plain = read_result(server, graph)
    graph["lora"] = {
        "class_type": "StableVITONLora",
        "inputs": {"stableviton": [loader, 1], "lora_name": lora.name, "strength": 1.0},
    }
    for node in (encode, find_class(graph, "StableVITONApply")):
        graph[node]["inputs"]["stableviton"] = ["lora", 0]
    with_lora = read_result(server, graph)
    assert (with_lora != plain).any()
    graph["net"] = {
        "class_type": "ControlNetLoader",
        "inputs": {"control_net_name": "pose.safetensors"},
    }
    graph["control"] = {
        "class_type": "ControlNetApplyAdvanced",
        "inputs": control
        | {"positive": [encode, 0], "negative": [encode, 1], "control_net": ["net", 0]}
        | {"start_percent": 0.0, "end_percent": 1.0},
    }
    graph[sample]["inputs"] |= {"positive": ["control", 0], "negative": ["control", 1]}
    assert (read_result(server, graph) != with_lora).any()


def read_result(server, graph: Graph):
    outputs = run(server, graph)
    return download(server, outputs[find_title(graph, "Result")]["images"][0])
