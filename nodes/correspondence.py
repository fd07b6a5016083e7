"""Where each point of a garment lands on the person: StableVITONCorrespondence."""

import numpy as np
import torch
import torch.nn.functional as F
from comfy_api.latest import io
from einops import rearrange
from torch import Tensor

from ..stableviton_core.correspondence.attention_reader import TIMESTEP
from ..stableviton_core.correspondence.draw_field import (
    draw_dots,
    draw_heat_map,
    draw_side_by_side,
    find_region,
    make_spot,
)
from ..stableviton_core.correspondence.fit_field import fit_field
from ..stableviton_core.correspondence.garments import place_garments
from ..stableviton_core.image_tensors import expand_batch, pad_to_aspect, to_rgb
from ..stableviton_core.images import MULTIPLE
from ..stableviton_core.person.densepose import decode_parts
from ..stableviton_core.schedule import TIMESTEPS
from .host.attention_pass import read_latent_attention
from .host.model import KEEP
from .person import fit_label_images
from .sockets import (
    CORRESPONDENCE_CATEGORY,
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
            display_name="StableVITON Correspondence",
            category=CORRESPONDENCE_CATEGORY,
            description="Show where each point of the garment lands on the person, as the zero "
            "cross-attention has learned it. Runs the model once more over the result.",
            search_aliases=["attention map", "warp", "flow"],
            inputs=[
                io.Model.Input("model", tooltip="From Apply StableVITON, as it was sampled."),
                io.Conditioning.Input(
                    "positive", tooltip="From StableVITON Conditioning, as it was sampled."
                ),
                io.Latent.Input(
                    "latent", tooltip="The sampled try-on; for an image of one, VAE Encode it."
                ),
                io.Image.Input("tryon", tooltip="The decoded try-on, to draw on."),
                io.Image.Input("garment", tooltip="As connected to StableVITON Conditioning."),
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
                    tooltip="As connected to StableVITON Conditioning. With it the torso and each "
                    "limb are fitted by themselves; without it the garment as a whole.",
                ),
                garment_mask_input(),
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
                    tooltip="Of each pixel the place on the garment, for Detail and Score.",
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
        rows, columns = latent["samples"].shape[2:]
        size = rows * MULTIPLE, columns * MULTIPLE
        parts: list[np.ndarray | None] = [None]
        if densepose is not None:
            images = fit_label_images("DensePose", densepose, torch.zeros(1, *size, 3))
            parts = [decode_parts(image) for image in images]
        placed = place_garments(garment, garment_mask, size)
        summaries = read_latent_attention(model, positive, latent, timestep)
        masks = read_masks(positive, len(latent["samples"]), size)
        field = fit_field(summaries, masks, [parts[i % len(parts)] for i in range(len(masks))])
        tryon, garment, garment_mask = (
            expand_batch(resize(x, size), len(field)) for x in (to_rgb(tryon), *placed)
        )
        spot = make_spot((point_x, point_y), size)
        landed = find_region(field, expand_batch(read_region(region, spot), len(field)))
        if show == COORDINATES:
            image = draw_side_by_side(garment, garment_mask, tryon, field)
        elif show == DOTS:
            image = draw_dots(garment, garment_mask, tryon, field)
        else:
            image = draw_heat_map(tryon, landed)
        return io.NodeOutput(image, field.confidence, field, landed, ui=preview(image, cls))


def read_masks(positive: list, batch: int, size: tuple[int, int]) -> np.ndarray:
    """The agnostic masks that a conditioning holds as keep-masks of latents, B x H x W in 0..1."""
    change = 1 - positive[0][1][KEEP].float()
    change = F.interpolate(change, size, mode="bilinear", align_corners=False)
    return expand_batch(change[:, 0], batch).cpu().numpy()


def read_region(region: Tensor | None, spot: Tensor) -> Tensor:
    """The region of the garment to find, in the aspect of the field; a spot where none is given."""
    if region is None:
        return spot
    return pad_to_aspect(rearrange(region, "b h w -> b 1 h w"), *spot.shape[1:])[:, 0]


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """IMAGE or MASK at a size (height, width), on the CPU."""
    values = images.cpu().float()
    values = values[:, None] if values.ndim == 3 else rearrange(values, "b h w c -> b c h w")
    values = F.interpolate(values, size, mode="bilinear", antialias=True)
    return values[:, 0] if images.ndim == 3 else rearrange(values, "b c h w -> b h w c")
