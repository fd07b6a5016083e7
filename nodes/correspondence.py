"""Where each point of a garment lands on the person: StableVITONCorrespondence."""

import numpy as np
import torch
import torch.nn.functional as F
from comfy_api.latest import io
from einops import rearrange
from torch import Tensor

from ..stableviton_core.correspondence.attention_reader import TIMESTEP
from ..stableviton_core.correspondence.draw_field import draw_dots, draw_heat_map, draw_side_by_side
from ..stableviton_core.correspondence.field import concatenate_fields
from ..stableviton_core.correspondence.fit_field import fit_field
from ..stableviton_core.correspondence.garments import place_garments, segment_garments
from ..stableviton_core.correspondence.regions import find_region, make_spot
from ..stableviton_core.correspondence.visibility import limit_to_visible
from ..stableviton_core.errors import StableVITONError
from ..stableviton_core.image_tensors import (
    expand_batch,
    find_batch_size,
    pad_to_aspect,
    resize_image_to_person,
    resize_mask_to_person,
    resize_to_person,
    to_arrays,
    to_rgb,
)
from ..stableviton_core.images import MULTIPLE
from ..stableviton_core.person.densepose import decode_parts
from ..stableviton_core.schedule import TIMESTEPS
from .host.attention_pass import read_latent_attention
from .host.model import KEEP
from .host.progress import iterate_with_progress
from .person import fit_label_images
from .sockets import (
    CORRESPONDENCE_CATEGORY,
    TRY_ON,
    FieldSocket,
    fraction_input,
    garment_mask_input,
    preview,
)

COORDINATES, DOTS, REGION = "coordinates", "matching dots", "region"


class StableVITONCorrespondence(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONCorrespondence",
            display_name="Find Correspondence",
            category=CORRESPONDENCE_CATEGORY,
            description="Show where each point of the garment lands on the person, as the zero "
            "cross-attention has learned it. Runs the model once more over the result.",
            search_aliases=[*TRY_ON, "attention map", "warp", "flow"],
            inputs=[
                io.Model.Input("model", tooltip="From Apply StableVITON, as it was sampled."),
                io.Conditioning.Input("positive", tooltip="From Encode Try-On, as it was sampled."),
                io.Latent.Input(
                    "latent", tooltip="The sampled try-on; for an image of one, VAE Encode it."
                ),
                io.Image.Input("tryon", tooltip="The decoded try-on, to draw on."),
                io.Image.Input("garment", tooltip="As connected to Encode Try-On."),
                io.Combo.Input(
                    "show",
                    options=[COORDINATES, DOTS, REGION],
                    default=COORDINATES,
                    tooltip="coordinates: garment and person coloured alike where they match. "
                    "matching dots: dots of one colour on both. region: where the region, or the "
                    "point, lands on the person.",
                ),
                fraction_input("point_x", 0.5, 0.01, "0: the garment's left border, 1: its right."),
                fraction_input(
                    "point_y", 0.4, 0.01, "0: the garment's upper border, 1: its lower."
                ),
                io.Int.Input(
                    "timestep",
                    default=TIMESTEP,
                    min=0,
                    max=TIMESTEPS - 1,
                    advanced=True,
                    tooltip="How much noise is added to the result for the pass, from 0 to 999.",
                ),
                io.Image.Input(
                    "densepose",
                    optional=True,
                    tooltip="As connected to Encode Try-On. With it the torso and each "
                    "limb are fitted by themselves; without it the garment as a whole.",
                ),
                garment_mask_input(
                    "Without it the built-in network (U-2-Net) finds what stands out from the "
                    "background."
                ),
                io.Mask.Input(
                    "region",
                    optional=True,
                    tooltip="White (1) on what to find of the garment, such as its logo. Without "
                    "it, a spot around point_x, point_y.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="What `show` names."),
                io.Mask.Output(
                    display_name="confidence",
                    tooltip="0..1: how far the attention around a pixel agrees with the field.",
                ),
                FieldSocket.Output(
                    display_name="field",
                    tooltip="Of each pixel the place on the garment, for Carry Over "
                    "Details and Score Try-On.",
                ),
                io.Mask.Output(display_name="region", tooltip="Where the region lands, 0..1."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        positive: list,
        latent: dict,
        tryon: Tensor,
        garment: Tensor,
        show: str,
        point_x: float,
        point_y: float,
        timestep: int,
        densepose: Tensor | None = None,
        garment_mask: Tensor | None = None,
        region: Tensor | None = None,
    ) -> io.NodeOutput:
        keep = read_keep_mask(positive)
        samples = read_samples(latent)
        size = samples.shape[2] * MULTIPLE, samples.shape[3] * MULTIPLE
        parts = None if densepose is None else read_parts(densepose, size)
        tryon, garment = to_rgb(tryon), to_rgb(garment)
        images = {"try-on": tryon}
        if garment_mask is None:
            garment_mask = segment_garments(garment)
        images["garment"], garment_mask = place_garments(garment, garment_mask, size)
        images = {
            name: resize_image_to_person(name, image.cpu(), *size) for name, image in images.items()
        }
        garment_mask = resize_mask_to_person("garment mask", garment_mask.cpu(), *size)
        if region is None:
            region = make_spot((point_x, point_y), size)
        else:
            region = place_region(region, garment, size)
        inputs = {"positive": keep, "latent": samples, "garment mask": garment_mask}
        inputs |= {"region": region} | images
        sizes = {name: len(value) for name, value in inputs.items()}
        batch = find_batch_size(sizes if parts is None else sizes | {"DensePose": len(parts)})
        change, samples, garment_mask, region, tryon, garment = (
            expand_batch(value, batch)
            for value in (1 - keep, samples, garment_mask, region, *images.values())
        )
        summaries = read_latent_attention(model, positive, samples, timestep)
        masks = F.interpolate(change, size, mode="bilinear", align_corners=False)[:, 0].numpy()
        arrays = to_arrays(tryon)
        fields = []
        for item in iterate_with_progress(range(batch)):
            part = None if parts is None else parts[item % len(parts)]
            field = fit_field(summaries, item, masks[item], part, garment_mask[item].numpy())
            fields.append(limit_to_visible(field, arrays[item], masks[item]))
        field = concatenate_fields(fields)
        found = find_region(field, region)
        if show == COORDINATES:
            image = draw_side_by_side(garment, garment_mask, tryon, field)
        elif show == DOTS:
            image = draw_dots(garment, garment_mask, tryon, field)
        else:
            image = draw_heat_map(tryon, found)
        return io.NodeOutput(image, field.confidence, field, found, ui=preview(image, cls))


def read_keep_mask(positive: list) -> Tensor:
    """The keep-mask of a conditioning, B x 1 x h x w. StableVITONError unless it is one of
    Encode Try-On alone."""
    if len(positive) != 1 or KEEP not in positive[0][1]:
        raise StableVITONError(
            f"positive has {len(positive)} entries, of which the correspondence of one is read. "
            "Connect the positive output of Encode Try-On, not combined with another."
        )
    return positive[0][1][KEEP].float().cpu()


def read_samples(latent: dict) -> Tensor:
    samples = latent["samples"]
    if samples.ndim != 4:
        raise StableVITONError(
            "The latent is batch x channels x height x width, got "
            f"{' x '.join(map(str, samples.shape))}."
        )
    return samples


def read_parts(densepose: Tensor, size: tuple[int, int]) -> list[np.ndarray]:
    """The part indices of DensePose images at a size (height, width)."""
    person = torch.zeros(len(densepose), *size, 3)
    return [decode_parts(image) for image in fit_label_images("DensePose", densepose, person)]


def place_region(region: Tensor, garment: Tensor, size: tuple[int, int]) -> Tensor:
    """A MASK of the garment's image, padded to the aspect of a size and brought to it. ImageError
    where it has another aspect than the garment."""
    region = resize_mask_to_person("region", region.cpu(), *garment.shape[1:3])
    region = pad_to_aspect(rearrange(region, "b h w -> b 1 h w"), *size)
    return resize_to_person("region", region, *size, antialias=True)[:, 0]
