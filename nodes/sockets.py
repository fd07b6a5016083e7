"""Categories, the pack's own socket types, and inputs and outputs that several nodes share."""

from comfy_api.latest import io, ui
from torch import Tensor

from ..stableviton_core.image_tensors import shrink

CATEGORY = "StableVITON"
PERSON_CATEGORY = "StableVITON/person"
CORRESPONDENCE_CATEGORY = "StableVITON/correspondence"
TRY_ON = ["try on", "virtual try-on", "viton", "clothes", "garment"]  # what is searched for

StableVITONSocket = io.Custom("STABLEVITON")
CropSocket = io.Custom("STABLEVITON_CROP")  # list of person.crop.CropRegion, one per image
ParseSocket = io.Custom("STABLEVITON_PARSE")  # person.labels.Parse
FieldSocket = io.Custom("STABLEVITON_FIELD")  # correspondence.field.CorrespondenceField
PoseSocket = io.Custom("POSE_KEYPOINT")  # list of OpenPose JSON, one per image

PREVIEW_SIDE = 768  # of what a node shows of its result, its longer side in pixels
LARGEST, NEAREST = "largest", "nearest to point"


def image_input() -> io.Image.Input:
    return io.Image.Input("image", tooltip="The person, best from Crop Person.")


def size_inputs(tooltip: str) -> list[io.Int.Input]:
    """Width and height of the working image."""
    return [
        io.Int.Input("width", default=384, min=64, max=4096, step=8, tooltip=tooltip),
        io.Int.Input("height", default=512, min=64, max=4096, step=8, tooltip=tooltip),
    ]


def pose_input(note: str) -> "io.Input":
    return PoseSocket.Input(
        "pose_keypoint",
        optional=True,
        tooltip=f"The person's keypoints, from Detect Pose or another pack's node. {note}",
    )


def person_inputs(*choices: str, note: str) -> list:
    """Which of several persons to take. choices: beside the largest and the nearest to a point."""
    return [
        io.Combo.Input(
            "person",
            options=[LARGEST, NEAREST, *choices],
            default=LARGEST,
            tooltip="Of several persons in the image: the largest, or the one whose centre is "
            f"nearest to the point below. {note}",
        ),
        fraction_input("point_x", 0.5, 0.01, "0 is the image's left border, 1 its right one."),
        fraction_input("point_y", 0.5, 0.01, "0 is the image's upper border, 1 its lower one."),
    ]


def fraction_input(name: str, default: float, step: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input(
        name, default=default, min=0.0, max=1.0, step=step, advanced=True, tooltip=tooltip
    )


def garment_mask_input(without: str) -> "io.Input":
    """without: what happens where it is not connected, a sentence."""
    return io.Mask.Input(
        "garment_mask",
        optional=True,
        tooltip="White (1) where the garment is in its image, as Cut Out Garment gives it. "
        f"{without}",
    )


def source_output() -> io.String.Output:
    return io.String.Output(
        display_name="source", tooltip="What made it, and whether it is approximate."
    )


def preview(images: Tensor, node: type[io.ComfyNode]) -> ui.PreviewImage:
    """What `NodeOutput(ui=...)` takes to show images on a node: IMAGE B x H x W x 3 in 0..1. They
    are written to ComfyUI's temporary folder."""
    return ui.PreviewImage(shrink(images, PREVIEW_SIDE), cls=node)
