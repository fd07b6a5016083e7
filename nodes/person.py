"""What is known about a person: StableVITONPose, StableVITONParse, StableVITONDensePose."""

from contextlib import ExitStack

import numpy as np
import torch
from comfy_api.latest import io
from torch import Tensor

from ..stableviton_core.errors import StableVITONError
from ..stableviton_core.images import (
    find_batch_size,
    resize_to_person,
    to_arrays,
    to_channels_first,
    to_images,
    to_masks,
)
from ..stableviton_core.person.agnostic import DENSEPOSE_IMAGE, SKELETON
from ..stableviton_core.person.analysis import NoPersonError, analyze_person, find_bodies
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
from .host.progress import each
from .sockets import PERSON_CATEGORY, ParseSocket, PoseSocket

BLAZEPOSE = "blazepose"
LARGEST, NEAREST, EVERYONE = "largest", "nearest to point", "everyone"


def person_inputs(*choices: str, note: str) -> list:
    """Whom to take of several persons."""
    return [
        io.Combo.Input(
            "person",
            options=list(choices),
            default=LARGEST,
            tooltip="Of several persons in the picture: the largest, or the one whose middle is "
            f"nearest to the point below. {note}",
        ),
        io.Float.Input(
            "point_x",
            default=0.5,
            min=0.0,
            max=1.0,
            step=0.01,
            advanced=True,
            tooltip="0 is the picture's left border, 1 its right one.",
        ),
        io.Float.Input(
            "point_y",
            default=0.5,
            min=0.0,
            max=1.0,
            step=0.01,
            advanced=True,
            tooltip="0 is the picture's upper border, 1 its lower one.",
        ),
    ]


def point_in(image: np.ndarray, person: str, x: float, y: float) -> tuple[float, float] | None:
    """Pixels; None for the largest person."""
    return (x * image.shape[1], y * image.shape[0]) if person == NEAREST else None


def poses_of(keypoints: list | None, batch: int, height: int, width: int) -> list[Pose | None]:
    """The person of every picture, where another node has found one."""
    if keypoints is None:
        return [None] * batch
    return list(read_pose_keypoints(keypoints, batch, height, width))


def pose_input(note: str) -> PoseSocket.Input:
    return PoseSocket.Input(
        "pose_keypoint",
        optional=True,
        tooltip=f"The person's keypoints, from StableVITON Pose or another pack's node. {note}",
    )


def label_arrays(name: str, given: Tensor, image: Tensor) -> list[np.ndarray]:
    """A picture whose colours are labels, at the image's size."""
    find_batch_size({"image": len(image), name: len(given)})
    given = resize_to_person(name, to_channels_first(given), *image.shape[1:3], "nearest")
    return to_arrays(given.movedim(1, -1))  # B C H W -> B H W C


class StableVITONPose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONPose",
            display_name="StableVITON Pose",
            category=PERSON_CATEGORY,
            description="Find a person's joints (COCO-18).",
            search_aliases=["openpose", "skeleton", "keypoints"],
            inputs=[
                io.Image.Input("image", tooltip="The person, best from StableVITON CropRegion."),
                io.Combo.Input(
                    "model",
                    options=[BLAZEPOSE, *folders.openpose_names()],
                    default=BLAZEPOSE,
                    tooltip="blazepose ships with this pack. body_pose_model.pth in models/openpose"
                    " is OpenPose, which needs the Python package controlnet_aux.",
                ),
                *person_inputs(
                    LARGEST, NEAREST, EVERYONE, note="everyone: all of them, the largest first."
                ),
            ],
            outputs=[
                PoseSocket.Output(tooltip="OpenPose JSON in pixels, one entry a picture."),
                io.Image.Output(tooltip="The skeleton, drawn on black."),
            ],
        )

    @classmethod
    def execute(
        cls, image: Tensor, model: str, person: str, point_x: float, point_y: float
    ) -> io.NodeOutput:
        arrays, keypoints, drawn = to_arrays(image), [], []
        with ExitStack() as stack:
            found_by = _blazepose
            if model != BLAZEPOSE:
                path = folders.person_model_path(folders.OPENPOSE, model)
                found_by = stack.enter_context(person_networks.openpose(path))
            for array in each(arrays):
                poses = found_by(array)
                if not poses:
                    raise NoPersonError(
                        f"{model} found nobody in picture {len(drawn) + 1}. Take one that shows a "
                        "person from the head to the hips, upright and not too small."
                    )
                if person != EVERYONE:
                    poses = [choose_pose(poses, point_in(array, person, point_x, point_y))]
                keypoints.append(poses_to_json(poses, *array.shape[:2]))
                drawn.append(np.maximum.reduce([draw_skeleton(p, *array.shape[:2]) for p in poses]))
        return io.NodeOutput(keypoints, to_images(drawn))


def _blazepose(image: np.ndarray) -> list[Pose]:
    return [body.to_pose() for body in find_bodies(image)]


class StableVITONParse(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONParse",
            display_name="StableVITON Parse",
            category=PERSON_CATEGORY,
            description="Label a person's clothes and body parts.",
            search_aliases=["human parsing", "segment clothes", "segformer"],
            inputs=[
                io.Image.Input("image", tooltip="The person, best from StableVITON CropRegion."),
                io.Combo.Input(
                    "model",
                    options=[SKELETON, *folders.segformer_names()],
                    default=SKELETON,
                    tooltip="skeleton: coarse parts from the pose and the person's outline, without"
                    " hair, sleeves or skirts. A folder in models/segformer: a SegFormer such as "
                    "segformer_b2_clothes or fashn-human-parser.",
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
                    "They say whom to label, and tell left limbs from right ones. Without them: "
                    "the largest person."
                ),
            ],
            outputs=[
                ParseSocket.Output(display_name="parse", tooltip="For StableVITON Agnostic Mask."),
                io.Image.Output(tooltip="The labels in VITON-HD's colours."),
                io.Mask.Output(tooltip="White (1) where the chosen labels are."),
                io.String.Output(
                    display_name="source", tooltip="What made it, and whether it is approximate."
                ),
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
        if label_image is not None:
            source = f"label image ({scheme})"
            given = label_arrays("label image", label_image, image)
            maps = [decode_labels(array, scheme) for array in each(given)]
            return cls._outputs(maps, names, source)
        poses = poses_of(pose_keypoint, *image.shape[:3])
        pairs = list(zip(to_arrays(image), poses, strict=True))
        if model == SKELETON:
            maps = [analyze_person(array, pose).parse for array, pose in each(pairs)]
        else:
            path = folders.person_model_path(folders.SEGFORMER, model)
            with person_networks.segformer(path) as parse:
                maps = [parse(array, pose or _pose_if_any(array)) for array, pose in each(pairs)]
        return cls._outputs(maps, names, model)

    @staticmethod
    def _outputs(maps: list[np.ndarray], names: list[str], source: str) -> io.NodeOutput:
        parsed = Parse(np.stack(maps), source, approximate=source == SKELETON)
        coloured = to_images([colour_labels(found) for found in maps])
        masks = to_masks([select_labels(found, *names) for found in maps])
        return io.NodeOutput(parsed, coloured, masks, source)


def _pose_if_any(image: np.ndarray) -> Pose | None:
    found = find_bodies(image)
    return found[0].to_pose() if found else None


class StableVITONDensePose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONDensePose",
            display_name="StableVITON DensePose",
            category=PERSON_CATEGORY,
            description="A person's DensePose in the colours StableVITON was trained on (Parula).",
            search_aliases=["densepose", "body parts", "parula"],
            inputs=[
                io.Image.Input("image", tooltip="The person, best from StableVITON CropRegion."),
                io.Combo.Input(
                    "model",
                    options=[SKELETON, *folders.densepose_names()],
                    default=SKELETON,
                    tooltip="skeleton: parts drawn from the pose and the person's outline. "
                    "densepose_r50_fpn_dl.torchscript or densepose_r101_fpn_dl.torchscript in "
                    "models/densepose: the real network.",
                ),
                *person_inputs(LARGEST, NEAREST, note="Not used with keypoints."),
                io.Image.Input(
                    "densepose",
                    optional=True,
                    tooltip="Another node's DensePose image, in Parula or Viridis colours, to be "
                    "brought to StableVITON's colours instead.",
                ),
                pose_input("They say whom to take."),
            ],
            outputs=[
                io.Image.Output(tooltip="Parula colours on black."),
                io.Image.Output(
                    display_name="parts",
                    tooltip="The part numbers 0 to 24 as grey levels (of 255): nearly black.",
                ),
                io.String.Output(
                    display_name="source", tooltip="What made it, and whether it is approximate."
                ),
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
        if densepose is not None:
            given = label_arrays("DensePose", densepose, image)
            return cls._outputs([decode_parts(array) for array in each(given)], DENSEPOSE_IMAGE)
        arrays = to_arrays(image)
        points = [point_in(array, person, point_x, point_y) for array in arrays]
        poses = poses_of(pose_keypoint, *image.shape[:3])
        people = list(zip(arrays, points, poses, strict=True))
        if model == SKELETON:
            parts = [
                analyze_person(array, pose, point).parts for array, point, pose in each(people)
            ]
            return cls._outputs(parts, SKELETON)
        path = folders.person_model_path(folders.DENSEPOSE, model)
        with person_networks.densepose(path) as found_by:
            parts = [
                found_by(array, point if pose is None else tuple(pose.centre()))
                for array, point, pose in each(people)
            ]
        return cls._outputs(parts, model)

    @staticmethod
    def _outputs(parts: list[np.ndarray], source: str) -> io.NodeOutput:
        if not all(part.any() for part in parts):
            raise StableVITONError("DensePose is empty: nobody was found.")
        grey = torch.from_numpy(np.stack(parts)).float()[..., None].expand(-1, -1, -1, 3) / 255
        return io.NodeOutput(to_images([colour_parts(p) for p in parts]), grey, source)
