"""What a correspondence field is used for: StableVITONDetail, StableVITONScore."""

import torch
from comfy_api.latest import io
from torch import Tensor

from ..stableviton_core.correspondence.carry_details import DetailOptions, carry_details
from ..stableviton_core.correspondence.field import CorrespondenceField
from ..stableviton_core.correspondence.garments import place_garments
from ..stableviton_core.correspondence.score import score_tryons
from ..stableviton_core.errors import ImageError
from ..stableviton_core.image_tensors import (
    expand_batch,
    find_batch_size,
    resize_mask_to_person,
    to_rgb,
)
from ..stableviton_core.images import MULTIPLE
from .host.progress import iterate_with_progress
from .sockets import CORRESPONDENCE_CATEGORY, TRY_ON, FieldSocket, garment_mask_input, preview

OF_THE_FIELD = "Without it, that of the field."


def tryon_inputs(garment_note: str) -> list["io.Input"]:
    """What Carry Over Details and Score Try-On compare."""
    return [
        io.Image.Input("tryon", tooltip="The try-on, of any size with the person's aspect."),
        io.Image.Input("garment", tooltip=f"The garment's image. {garment_note}"),
        FieldSocket.Input("field", tooltip="From Find Correspondence."),
        io.Mask.Input("mask", tooltip="The agnostic mask: white (1) where the try-on is."),
    ]


class StableVITONDetail(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONDetail",
            display_name="Carry Over Details",
            category=CORRESPONDENCE_CATEGORY,
            description="Carry details of the garment photo over to the try-on: prints, letters "
            "and weave at the photo's resolution. Shading and folds stay as generated.",
            search_aliases=[*TRY_ON, "logo", "print", "texture", "sharpen", "warp"],
            inputs=[
                *tryon_inputs(
                    "Of any size: for more detail than the working size has, a second Cut Out "
                    "Garment with a larger width and height of the same aspect."
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of the details is the garment photo's. 0 leaves the try-on "
                    "as it is.",
                ),
                io.Float.Input(
                    "coarsest",
                    default=DetailOptions.coarsest,
                    min=0.005,
                    max=0.5,
                    step=0.005,
                    advanced=True,
                    tooltip="The size of the largest details to carry over, as a fraction of the "
                    "image's height. Larger: also patterns and colours; smaller: only the weave.",
                ),
                io.Float.Input(
                    "finest",
                    default=0.0,
                    min=0.0,
                    max=64.0,
                    step=0.1,
                    advanced=True,
                    tooltip="Pixels: finer details than this stay as generated. 0: none.",
                ),
                garment_mask_input(OF_THE_FIELD),
            ],
            outputs=[io.Image.Output(tooltip="Outside the mask the try-on's own pixels.")],
        )

    @classmethod
    def execute(
        cls,
        tryon: Tensor,
        garment: Tensor,
        field: CorrespondenceField,
        mask: Tensor,
        strength: float,
        coarsest: float,
        finest: float,
        garment_mask: Tensor | None = None,
    ) -> io.NodeOutput:
        if strength == 0:
            return io.NodeOutput(tryon)
        items = match_inputs(tryon, garment, garment_mask, field, mask)
        options = DetailOptions(strength, coarsest, finest)
        details = [carry_details(*item, options) for item in iterate_with_progress(items)]
        image = torch.cat(details)
        return io.NodeOutput(image, ui=preview(image, cls))


class StableVITONScore(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONScore",
            display_name="Score Try-On",
            category=CORRESPONDENCE_CATEGORY,
            description="How far a try-on can be trusted, without ground truth: how sure the "
            "correspondence is, and how alike try-on and garment are through it.",
            search_aliases=[*TRY_ON, "quality", "metric", "best of", "rank"],
            inputs=[*tryon_inputs("Best the working size."), garment_mask_input(OF_THE_FIELD)],
            outputs=[
                io.Float.Output(
                    display_name="score", tooltip="0..1, larger is better; a batch's mean."
                ),
                io.String.Output(
                    display_name="report", tooltip="A line for each try-on, with its parts."
                ),
                io.Image.Output(
                    display_name="best", tooltip="Of a batch the try-on with the highest score."
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        tryon: Tensor,
        garment: Tensor,
        field: CorrespondenceField,
        mask: Tensor,
        garment_mask: Tensor | None = None,
    ) -> io.NodeOutput:
        items = match_inputs(tryon, garment, garment_mask, field, mask)
        scores = [score for item in iterate_with_progress(items) for score in score_tryons(*item)]
        report = "\n".join(score.describe() for score in scores)
        totals = [score.total for score in scores]
        shown = {"text": [report], "score": totals}
        best = items[totals.index(max(totals))][0]
        return io.NodeOutput(sum(totals) / len(totals), report, best, ui=shown)


def match_inputs(
    tryon: Tensor,
    garment: Tensor,
    garment_mask: Tensor | None,
    field: CorrespondenceField,
    mask: Tensor,
) -> list[tuple[Tensor, Tensor, Tensor, CorrespondenceField, Tensor]]:
    """Try-on, garment, its mask, field and agnostic mask of each item of a batch. ImageError where
    sizes or batches do not fit."""
    tryon, garment = to_rgb(tryon), to_rgb(garment)
    height, width = tryon.shape[1:3]
    if min(height, width) < MULTIPLE:
        raise ImageError(f"The try-on is {width} x {height}, expected {MULTIPLE} pixels or more.")
    field.check_aspect(height, width)
    if garment_mask is None:
        blank = torch.ones(1, *garment.shape[1:3])
        garment, _ = place_garments(garment, blank, field.size)
        garment_mask = field.resize(*garment.shape[1:3]).garment_mask
    else:
        garment, garment_mask = place_garments(garment, garment_mask, field.size)
    mask = resize_mask_to_person("mask", mask, height, width)
    sizes = {"tryon": len(tryon), "garment": len(garment), "garment mask": len(garment_mask)}
    batch = find_batch_size(sizes | {"field": len(field), "mask": len(mask)})
    tryon, garment, garment_mask, mask = (
        expand_batch(x, batch) for x in (tryon, garment, garment_mask, mask)
    )
    field = field.expand(batch)
    items = (slice(item, item + 1) for item in range(batch))
    return [(tryon[i], garment[i], garment_mask[i], field[i], mask[i]) for i in items]
