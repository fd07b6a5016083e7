"""A person's pose, human parsing and DensePose: StableVITONPose, StableVITONParse,
StableVITONDensePose."""

from contextlib import ExitStack

import numpy as np
from comfy_api.latest import io
from einops import rearrange, repeat
from torch import Tensor

from ..stableviton_core.errors import StableVITONError
from ..stableviton_core.image_tensors import (
    find_batch_size,
    resize_to_person,
    to_arrays,
    to_channels_first,
    to_images,
    to_masks,
    to_rgb,
)
from ..stableviton_core.person import large_networks
from ..stableviton_core.person.agnostic import DENSEPOSE_IMAGE, SKELETON
from ..stableviton_core.person.analysis import NoPersonError, analyze_parts, parse_person
from ..stableviton_core.person.bodies import find_bodies
from ..stableviton_core.person.densepose import colour_parts, decode_parts
from ..stableviton_core.person.labels import (
    SCHEMES,
    Parse,
    colour_labels,
    decode_labels,
    parse_label_names,
    select_labels,
)
from ..stableviton_core.person.pose import Pose, choose_pose, poses_to_json, read_pose_keypoints
from ..stableviton_core.person.skeleton import draw_skeleton
from .host import folders, person_networks
from .host.progress import iterate_with_progress
from .sockets import (
    NEAREST,
    PERSON_CATEGORY,
    TRY_ON,
    ParseSocket,
    PoseSocket,
    image_input,
    person_inputs,
    pose_input,
    preview,
    source_output,
)

BLAZEPOSE = "blazepose"
EVERYONE = "everyone"


def read_poses(keypoints: list | None, batch: int, height: int, width: int) -> list[Pose | None]:
    """The pose of every image of a batch, None where no keypoints are connected."""
    if keypoints is None:
        return [None] * batch
    return list(read_pose_keypoints(keypoints, batch, height, width))


def scale_point(image: np.ndarray, person: str, x: float, y: float) -> tuple[float, float] | None:
    """The point of `person_inputs` in pixels of an H x W x 3 image; None for the largest person."""
    return (x * image.shape[1], y * image.shape[0]) if person == NEAREST else None


def fit_label_images(name: str, label_images: Tensor, image: Tensor) -> list[np.ndarray]:
    """Images whose colours are labels (IMAGE) -> arrays H x W x 3 uint8 of the person image's size,
    without blending. name: for errors. ImageError where batch or aspect differ."""
    labels = to_channels_first(label_images)
    find_batch_size({"image": len(image), name: len(labels)})
    height, width = image.shape[1:3]
    labels = resize_to_person(name, labels, height, width, "nearest")
    return to_arrays(rearrange(labels, "b c h w -> b h w c"))


class StableVITONPose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONPose",
            display_name="Detect Pose",
            category=PERSON_CATEGORY,
            description="Find a person's joints (COCO-18).",
            search_aliases=[*TRY_ON, "openpose", "skeleton", "keypoints", "blazepose"],
            inputs=[
                image_input(),
                io.Combo.Input(
                    "model",
                    options=[BLAZEPOSE, *folders.list_person_models(folders.OPENPOSE)],
                    default=BLAZEPOSE,
                    tooltip="blazepose ships with this pack. body_pose_model.pth in models/openpose"
                    " is OpenPose, which needs the Python package controlnet_aux.",
                ),
                *person_inputs(EVERYONE, note="everyone: all of them, the largest first."),
            ],
            outputs=[
                PoseSocket.Output(tooltip="OpenPose JSON in pixels, one entry per image."),
                io.Image.Output(tooltip="The skeleton, drawn on black."),
            ],
        )

    @classmethod
    def execute(
        cls, image: Tensor, model: str, person: str, point_x: float, point_y: float
    ) -> io.NodeOutput:
        keypoints, skeletons = [], []
        with ExitStack() as stack:
            find_poses: large_networks.OpenPose = find_blazeposes
            if model != BLAZEPOSE:
                path = folders.find_person_model(folders.OPENPOSE, model)
                find_poses = stack.enter_context(person_networks.load_openpose(path))
            for index, array in enumerate(iterate_with_progress(to_arrays(image)), start=1):
                size = array.shape[:2]
                poses = find_poses(array)
                if not poses:
                    raise NoPersonError(
                        f"{model} found nobody in image {index}. Take one that shows a person from "
                        "the head to the hips, upright and not too small."
                    )
                if person != EVERYONE:
                    poses = [choose_pose(poses, scale_point(array, person, point_x, point_y))]
                keypoints.append(poses_to_json(poses, *size))
                skeletons.append(np.maximum.reduce([draw_skeleton(p, *size) for p in poses]))
        drawing = to_images(skeletons)
        return io.NodeOutput(keypoints, drawing, ui=preview(drawing, cls))


def find_blazeposes(image: np.ndarray) -> list[Pose]:
    """Everyone's pose in an image H x W x 3 uint8 RGB, by the built-in network, largest first."""
    return [body.to_pose() for body in find_bodies(image)]


class StableVITONParse(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONParse",
            display_name="Parse Clothes",
            category=PERSON_CATEGORY,
            description="Label a person's clothes and body parts.",
            search_aliases=[*TRY_ON, "human parsing", "segment clothes", "segformer", "mask"],
            inputs=[
                image_input(),
                io.Combo.Input(
                    "model",
                    options=[SKELETON, *folders.list_person_models(folders.SEGFORMER)],
                    default=SKELETON,
                    tooltip="skeleton: by colours and edges inside the person's outline, from the "
                    "pose: top and bottom, hair, arms, hands. A folder in models/segformer: a "
                    "SegFormer such as segformer_b2_clothes or fashn-human-parser.",
                ),
                io.String.Input(
                    "labels",
                    default="upper, coat, dress",
                    tooltip="What the MASK shows: names with commas between them, out of "
                    "background, hat, hair, glove, sunglasses, upper, dress, coat, socks, pants, "
                    "torso_skin, scarf, skirt, face, left_arm, right_arm, left_leg, right_leg, "
                    "left_shoe, right_shoe.",
                ),
                io.Combo.Input(
                    "scheme",
                    options=list(SCHEMES),
                    default="viton-hd",
                    advanced=True,
                    tooltip="Whose colours or numbers the label image has.",
                ),
                io.Image.Input(
                    "label_image",
                    optional=True,
                    tooltip="A ready label image, such as VITON-HD's image-parse-v3, instead of a "
                    "model.",
                ),
                pose_input(
                    "They choose the person, and tell left limbs from right ones. Without them: "
                    "the largest person."
                ),
            ],
            outputs=[
                ParseSocket.Output(display_name="parse", tooltip="For Make Agnostic Mask."),
                io.Image.Output(tooltip="The labels in VITON-HD's colours."),
                io.Mask.Output(tooltip="White (1) where the chosen labels are."),
                source_output(),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        model: str,
        labels: str,
        scheme: str,
        label_image: Tensor | None = None,
        pose_keypoint: list | None = None,
    ) -> io.NodeOutput:
        names = parse_label_names(labels)
        image = to_rgb(image)
        if label_image is not None:
            arrays = fit_label_images("label image", label_image, image)
            maps = [decode_labels(array, scheme) for array in iterate_with_progress(arrays)]
            return cls._make_outputs(maps, names, f"label image ({scheme})")
        poses = read_poses(pose_keypoint, *image.shape[:3])
        persons = iterate_with_progress(list(zip(to_arrays(image), poses, strict=True)))
        if model == SKELETON:
            maps = [parse_person(array, pose)[1] for array, pose in persons]
            return cls._make_outputs(maps, names, SKELETON)
        path = folders.find_person_model(folders.SEGFORMER, model)
        with person_networks.load_segformer(path) as parse:
            maps = [
                parse(array, pose or next(iter(find_blazeposes(array)), None))
                for array, pose in persons
            ]
        return cls._make_outputs(maps, names, model)

    @classmethod
    def _make_outputs(cls, maps: list[np.ndarray], names: list[str], source: str) -> io.NodeOutput:
        parse = Parse(np.stack(maps), source, approximate=source == SKELETON)
        coloured = to_images([colour_labels(labels) for labels in maps])
        masks = to_masks([select_labels(labels, *names) for labels in maps])
        return io.NodeOutput(parse, coloured, masks, source, ui=preview(coloured, cls))


class StableVITONDensePose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONDensePose",
            display_name="Make DensePose",
            category=PERSON_CATEGORY,
            description="A person's DensePose in the colours StableVITON was trained on (Parula).",
            search_aliases=[*TRY_ON, "densepose", "body parts", "parula"],
            inputs=[
                image_input(),
                io.Combo.Input(
                    "model",
                    options=[SKELETON, *folders.list_person_models(folders.DENSEPOSE)],
                    default=SKELETON,
                    tooltip="skeleton: parts drawn from the pose and the person's outline. "
                    "densepose_r50_fpn_dl.torchscript or densepose_r101_fpn_dl.torchscript in "
                    "models/densepose: the real network.",
                ),
                *person_inputs(note="Not used with keypoints."),
                io.Image.Input(
                    "densepose",
                    optional=True,
                    tooltip="Another node's DensePose image, in Parula or Viridis colours, to be "
                    "brought to StableVITON's colours instead.",
                ),
                pose_input("They choose the person."),
            ],
            outputs=[
                io.Image.Output(tooltip="Parula colours on black."),
                io.Image.Output(
                    display_name="parts",
                    tooltip="The part numbers 0 to 24 as grey levels (of 255): nearly black.",
                ),
                source_output(),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        model: str,
        person: str,
        point_x: float,
        point_y: float,
        densepose: Tensor | None = None,
        pose_keypoint: list | None = None,
    ) -> io.NodeOutput:
        image = to_rgb(image)
        if densepose is not None:
            arrays = fit_label_images("DensePose", densepose, image)
            parts = [decode_parts(array) for array in iterate_with_progress(arrays)]
            return cls._make_outputs(parts, DENSEPOSE_IMAGE)
        arrays = to_arrays(image)
        points = [scale_point(array, person, point_x, point_y) for array in arrays]
        poses = read_poses(pose_keypoint, *image.shape[:3])
        persons = iterate_with_progress(list(zip(arrays, points, poses, strict=True)))
        if model == SKELETON:
            parts = [analyze_parts(array, pose, point) for array, point, pose in persons]
            return cls._make_outputs(parts, SKELETON)
        path = folders.find_person_model(folders.DENSEPOSE, model)
        with person_networks.load_densepose(path) as find_parts:
            parts = [
                find_parts(array, point if pose is None else tuple(pose.centre()))
                for array, point, pose in persons
            ]
        return cls._make_outputs(parts, model)

    @classmethod
    def _make_outputs(cls, parts: list[np.ndarray], source: str) -> io.NodeOutput:
        if not all(part_map.any() for part_map in parts):
            raise StableVITONError("DensePose is empty: nobody was found.")
        grey = to_images([repeat(part_map, "h w -> h w 3") for part_map in parts])
        coloured = to_images([colour_parts(part_map) for part_map in parts])
        return io.NodeOutput(coloured, grey, source, ui=preview(coloured, cls))
