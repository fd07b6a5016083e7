"""From any photo to the working size and back: StableVITONCrop, StableVITONStitch."""

import torch
from comfy_api.latest import io
from torch import Tensor

from ..stableviton_core.images import find_batch_size, to_arrays, to_rgb
from ..stableviton_core.person.analysis import find_person_box
from ..stableviton_core.person.crop import CropRegion, crop, fit, stitch
from .host.progress import each
from .sockets import PERSON_CATEGORY, CropSocket

PERSON, WHOLE = "person", "whole photo"


def size_inputs(tooltip: str) -> list:
    """Width and height of the working picture."""
    return [
        io.Int.Input("width", default=384, min=64, max=4096, step=8, tooltip=tooltip),
        io.Int.Input("height", default=512, min=64, max=4096, step=8, tooltip=tooltip),
    ]


class StableVITONCrop(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONCrop",
            display_name="StableVITON CropRegion",
            category=PERSON_CATEGORY,
            description="Bring a photo of any size to the working size by cropping or padding "
            "around the person, never stretching. StableVITON Unframe puts the result back.",
            inputs=[
                io.Image.Input("photo", tooltip="The person's photo, of any size and aspect."),
                *size_inputs("Of the working picture; 3:4 as trained (384 x 512)."),
                io.Combo.Input(
                    "around",
                    options=[PERSON, WHOLE],
                    default=PERSON,
                    tooltip="person: close around the largest person. whole photo: all of it, "
                    "padded to the working aspect.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="The picture to work on."),
                io.Mask.Output(
                    display_name="padding", tooltip="White (1) where it lies outside the photo."
                ),
                CropSocket.Output(
                    display_name="frame", tooltip="Where it lies in the photo, for Unframe."
                ),
            ],
        )

    @classmethod
    def execute(cls, photo: Tensor, width: int, height: int, around: str) -> io.NodeOutput:
        photo = to_rgb(photo)
        frames, pictures, paddings = [], [], []
        for index, array in enumerate(each(to_arrays(photo))):
            person = find_person_box(array) if around == PERSON else None
            frames.append(fit(photo[index : index + 1], height, width, person))
            picture, padding = crop(frames[-1], height, width)
            pictures.append(picture)
            paddings.append(padding)
        return io.NodeOutput(torch.cat(pictures), torch.cat(paddings), frames)


class StableVITONStitch(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONStitch",
            display_name="StableVITON Unframe",
            category=PERSON_CATEGORY,
            description="Put a working picture back into its photo, at the photo's resolution.",
            inputs=[
                CropSocket.Input("frame", tooltip="From StableVITON CropRegion."),
                io.Image.Input("image", tooltip="The dressed working picture."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="The agnostic mask of the working picture: outside it the photo's own "
                    "pixels stay, exactly. Without it all that the frame shows is replaced.",
                ),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(
        cls, frame: list[CropRegion], image: Tensor, mask: Tensor | None = None
    ) -> io.NodeOutput:
        image = to_rgb(image)
        sizes = {"frame": len(frame), "image": len(image)}
        batch = find_batch_size(sizes if mask is None else sizes | {"mask": len(mask)})

        def item(values, index: int):
            return values[index % len(values)]

        photos = [
            stitch(
                item(frame, index),
                item(image, index)[None],
                None if mask is None else item(mask, index)[None],
            )
            for index in each(range(batch))
        ]
        return io.NodeOutput(torch.cat(photos))
