"""From any photo to the working size and back: StableVITONCrop, StableVITONStitch."""

import torch
from comfy_api.latest import io
from torch import Tensor

from ..stableviton_core.image_tensors import find_batch_size, to_arrays, to_rgb
from ..stableviton_core.person.analysis import find_person_box
from ..stableviton_core.person.crop import CropRegion, crop, find_crop_region, stitch
from .host.progress import iterate_with_progress
from .sockets import PERSON_CATEGORY, CropSocket, size_inputs

PERSON, WHOLE = "person", "whole photo"


class StableVITONCrop(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONCrop",
            display_name="StableVITON Crop",
            category=PERSON_CATEGORY,
            description="Bring a photo of any size to the working size by cropping or padding "
            "around the person, never stretching. StableVITON Stitch puts the result back.",
            inputs=[
                io.Image.Input("photo", tooltip="The person's photo, of any size and aspect."),
                *size_inputs("Of the working image; 3:4 as trained (384 x 512)."),
                io.Combo.Input(
                    "around",
                    options=[PERSON, WHOLE],
                    default=PERSON,
                    tooltip="person: close around the largest person. whole photo: all of it, "
                    "padded to the working aspect.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="The working image."),
                io.Mask.Output(
                    display_name="padding", tooltip="White (1) where it lies outside the photo."
                ),
                CropSocket.Output(
                    display_name="crop",
                    tooltip="The photo and the region of it, for StableVITON Stitch.",
                ),
            ],
        )

    @classmethod
    def execute(cls, photo: Tensor, width: int, height: int, around: str) -> io.NodeOutput:
        photo = to_rgb(photo)
        regions, images, paddings = [], [], []
        for index, array in enumerate(iterate_with_progress(to_arrays(photo))):
            box = find_person_box(array) if around == PERSON else None
            region = find_crop_region(photo[index : index + 1], height, width, box)
            image, padding = crop(region, height, width)
            regions.append(region)
            images.append(image)
            paddings.append(padding)
        return io.NodeOutput(torch.cat(images), torch.cat(paddings), regions)


class StableVITONStitch(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONStitch",
            display_name="StableVITON Stitch",
            category=PERSON_CATEGORY,
            description="Put a working image back into its photo, at the photo's resolution.",
            inputs=[
                CropSocket.Input("crop", tooltip="From StableVITON Crop."),
                io.Image.Input("image", tooltip="The working image with the try-on."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="The agnostic mask of the working image: outside it the photo's own "
                    "pixels stay, exactly. Without it the whole cropped region is replaced.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The photo with the try-on, of the photo's size.")],
        )

    @classmethod
    def execute(
        cls, crop: list[CropRegion], image: Tensor, mask: Tensor | None = None
    ) -> io.NodeOutput:
        image = to_rgb(image)
        sizes = {"crop": len(crop), "image": len(image)}
        batch = find_batch_size(sizes if mask is None else sizes | {"mask": len(mask)})
        photos = [
            stitch(
                crop[index % len(crop)],
                image[index % len(image)][None],
                None if mask is None else mask[index % len(mask)][None],
            )
            for index in iterate_with_progress(range(batch))
        ]
        return io.NodeOutput(torch.cat(photos))
