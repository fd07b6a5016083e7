"""From any photo to the working size and back: StableVITONCrop, StableVITONStitch."""

import numpy as np
import torch
from comfy_api.latest import io
from torch import Tensor

from ..stableviton_core.errors import StableVITONError
from ..stableviton_core.image_tensors import (
    find_batch_size,
    pair_with_masks,
    to_arrays,
    to_mask,
    to_rgb,
)
from ..stableviton_core.person.agnostic import GARMENTS
from ..stableviton_core.person.blazepose import Body
from ..stableviton_core.person.bodies import find_bodies
from ..stableviton_core.person.crop import (
    CONTEXT,
    Box,
    CropRegion,
    crop,
    draw_crop_region,
    find_crop_region,
)
from ..stableviton_core.person.crop_box import (
    find_garment_box,
    find_mask_box,
    find_person_box,
    locate_pose_in_crop,
    select_body,
)
from ..stableviton_core.person.pose import Pose, poses_to_json
from ..stableviton_core.person.stitch import BLENDS, StitchOptions, stitch
from .host.progress import iterate_with_progress
from .sockets import (
    PERSON_CATEGORY,
    PREVIEW_SIDE,
    TRY_ON,
    CropSocket,
    PoseSocket,
    preview,
    size_inputs,
)

PERSON, GARMENT, MASK, WHOLE = "person", "garment", "mask", "whole photo"
AUTOMATIC = -1  # of a feather


class StableVITONCrop(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONCrop",
            display_name="Crop Person",
            category=PERSON_CATEGORY,
            description="Bring a photo of any size to the working size by cropping or padding, "
            "never stretching. Stitch into Photo puts the result back.",
            search_aliases=[*TRY_ON, "inpaint crop", "resize", "person"],
            inputs=[
                io.Image.Input("photo", tooltip="The person's photo, of any size and aspect."),
                *size_inputs("Of the working image; 3:4 as trained (384 x 512)."),
                io.Combo.Input(
                    "around",
                    options=[PERSON, GARMENT, MASK, WHOLE],
                    default=PERSON,
                    tooltip="person: all of a person. garment: of a person what garments of the "
                    "category cover, as in the training images; most pixels for the garment. mask: "
                    "the white of the mask. whole photo: padded to the working aspect.",
                ),
                io.Combo.Input(
                    "category",
                    options=list(GARMENTS),
                    default="upper",
                    optional=True,
                    tooltip="For around = garment. upper: head to thigh, lower: waist to feet, "
                    "dress: head to feet.",
                ),
                io.Int.Input(
                    "person",
                    default=0,
                    min=0,
                    max=99,
                    optional=True,
                    advanced=True,
                    tooltip="Of several persons: 0 is the largest, 1 the next.",
                ),
                io.Float.Input(
                    "context",
                    default=CONTEXT,
                    min=0.0,
                    max=4.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="Margin around what is cropped to, as a fraction of its longer side.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White (1) on the person to take, for around = person and garment; "
                    "what to crop around, for around = mask.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="The working image."),
                io.Mask.Output(
                    display_name="padding", tooltip="White (1) where it lies outside the photo."
                ),
                CropSocket.Output(
                    display_name="crop",
                    tooltip="The photo and the region of it, for Stitch into Photo.",
                ),
                PoseSocket.Output(
                    display_name="pose",
                    tooltip="The keypoints of the person taken, in the working image: for the "
                    "nodes that would look for the largest person again. Empty where nobody is.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        photo: Tensor,
        width: int,
        height: int,
        around: str,
        category: str = "upper",
        person: int = 0,
        context: float = CONTEXT,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        photo, masks = pair_with_masks(to_rgb(photo), mask)
        regions, images, paddings, poses, previews = [], [], [], [], []
        for index, array in enumerate(iterate_with_progress(to_arrays(photo))):
            soft = masks[index]
            drawn = None if soft is None else soft > 0.5
            body = None
            if around in (PERSON, GARMENT):
                body = select_body(array, person, drawn)
            box = find_box(array, body, around, category, drawn)
            region = find_crop_region(photo[index : index + 1], height, width, box, context)
            image, padding = crop(region, height, width)
            regions.append(region)
            images.append(image)
            paddings.append(padding)
            poses.append(poses_to_json(find_poses(image, region, body), height, width))
            previews.append(draw_crop_region(region, height, width, PREVIEW_SIDE))
        result = torch.cat(images), torch.cat(paddings), regions, poses
        return io.NodeOutput(*result, ui=preview(torch.cat(previews), cls))


def find_box(
    photo: np.ndarray, body: Body | None, around: str, category: str, mask: np.ndarray | None
) -> Box | None:
    """What the region is made around; None: the whole photo. body: of the person taken."""
    if body is not None:
        if around == GARMENT:
            return find_garment_box(photo, body, category)
        return find_person_box(body)
    if around == WHOLE:
        return None
    if mask is None:
        raise StableVITONError("around is mask, and no mask is connected. Connect or draw one.")
    return find_mask_box(mask)


def find_poses(image: Tensor, region: CropRegion, body: Body | None) -> list[Pose]:
    """The pose of the person taken, or without one everyone's, in the working image."""
    (array,) = to_arrays(image)
    if body is not None:
        return [locate_pose_in_crop(body, region, array)]
    return [found.to_pose() for found in find_bodies(array)]


class StableVITONStitch(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONStitch",
            display_name="Stitch into Photo",
            category=PERSON_CATEGORY,
            description="Put a working image back into its photo, at the photo's resolution.",
            search_aliases=[*TRY_ON, "uncrop", "paste back", "inpaint stitch"],
            inputs=[
                CropSocket.Input("crop", tooltip="From Crop Person."),
                io.Image.Input("image", tooltip="The working image with the try-on."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="The agnostic mask of the working image: outside it the photo's own "
                    "pixels stay, exactly. Without it the whole cropped region is replaced.",
                ),
                io.Int.Input(
                    "feather",
                    default=AUTOMATIC,
                    min=AUTOMATIC,
                    max=512,
                    optional=True,
                    advanced=True,
                    tooltip="Pixels of the photo over which the photo changes into the try-on, "
                    "inside the mask. -1: one pixel of the working image.",
                ),
                io.Combo.Input(
                    "blend",
                    options=list(BLENDS),
                    default="plain",
                    optional=True,
                    advanced=True,
                    tooltip="plain: across the feather. multi-band: coarse shading across a wide "
                    "band, fine texture across the feather (Burt and Adelson, 1983).",
                ),
                io.Boolean.Input(
                    "match_colour",
                    default=False,
                    optional=True,
                    tooltip="Shift the try-on's colours inside the mask by its difference from the "
                    "photo just outside, so that no step of tone shows. For an image that VAE "
                    "Decode gives; what Paste Try-On Back gives has no difference there.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The photo with the try-on, of the photo's size.")],
        )

    @classmethod
    def execute(
        cls,
        crop: list[CropRegion],
        image: Tensor,
        mask: Tensor | None = None,
        feather: int = AUTOMATIC,
        blend: str = "plain",
        match_colour: bool = False,
    ) -> io.NodeOutput:
        image, mask = to_rgb(image), None if mask is None else to_mask(mask)
        sizes = {"crop": len(crop), "image": len(image)}
        batch = find_batch_size(sizes if mask is None else sizes | {"mask": len(mask)})
        options = StitchOptions(None if feather == AUTOMATIC else feather, blend, match_colour)
        photos = torch.cat(
            [
                stitch(
                    crop[index % len(crop)],
                    image[index % len(image)][None],
                    None if mask is None else mask[index % len(mask)][None],
                    options,
                )
                for index in iterate_with_progress(range(batch))
            ]
        )
        return io.NodeOutput(photos, ui=preview(photos, cls))
