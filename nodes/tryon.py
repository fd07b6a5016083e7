"""The nodes of a try-on: StableVITONApply, StableVITONConditioning, StableVITONPasteBack."""

from comfy_api.latest import io
from torch import Tensor

from ..stableviton_core.image_tensors import (
    expand_batch,
    find_batch_size,
    paste_back,
    resize_image_to_person,
    resize_mask_to_person,
    to_rgb,
)
from .host.adapter import StableVITON
from .host.conditioning import encode_conditioning
from .host.patch import patch_model
from .sockets import CATEGORY, TRY_ON, StableVITONSocket, fraction_input


class StableVITONApply(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONApply",
            display_name="Apply StableVITON",
            category=CATEGORY,
            description="Patch zero cross-attention to the garment into a StableVITON UNet.",
            search_aliases=[*TRY_ON, "zero cross-attention", "patch model"],
            inputs=[
                io.Model.Input("model", tooltip="The UNet of a StableVITON checkpoint."),
                StableVITONSocket.Input("stableviton", tooltip="From Load StableVITON."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    tooltip="Weight of the attention to the garment. 1 as trained; 0 leaves the "
                    "model as it is.",
                ),
                fraction_input(
                    "start_percent",
                    0.0,
                    0.001,
                    "Where in the sampling it begins, as a fraction of the noise schedule.",
                ),
                fraction_input("end_percent", 1.0, 0.001, "Where in the sampling it ends."),
            ],
            outputs=[io.Model.Output(tooltip="A patched copy; the model itself is unchanged.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        stableviton: StableVITON,
        strength: float,
        start_percent: float,
        end_percent: float,
    ) -> io.NodeOutput:
        if strength == 0:
            return io.NodeOutput(model)
        return io.NodeOutput(patch_model(model, stableviton, strength, start_percent, end_percent))


class StableVITONConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONConditioning",
            display_name="Encode Try-On",
            category=CATEGORY,
            description="Encode a person and a garment for sampling. Person i goes with garment i; "
            "a single person or garment goes with all.",
            search_aliases=[*TRY_ON, "conditioning", "dress person"],
            inputs=[
                StableVITONSocket.Input("stableviton", tooltip="From Load StableVITON."),
                io.ClipVision.Input(
                    "clip_vision",
                    tooltip="From Load StableVITON, or a stock CLIP ViT-L/14 for released files.",
                ),
                io.Vae.Input("vae", tooltip="From Load StableVITON, or a fine-tuned VAE."),
                io.Image.Input(
                    "person",
                    tooltip="The person. Sets the size: width and height in multiples of 8, 3:4 as "
                    "trained (384 x 512).",
                ),
                io.Mask.Input("mask", tooltip="White (1) where the garment is to be generated."),
                io.Image.Input(
                    "densepose", tooltip="DensePose parts in VITON-HD's Parula colours on black."
                ),
                io.Image.Input(
                    "garment",
                    tooltip="The garment lying flat on a plain background. Padded to the person's "
                    "aspect if it has another.",
                ),
                io.Image.Input(
                    "agnostic",
                    optional=True,
                    tooltip="The person with the garment greyed out, where you have it ready. "
                    "Without it, the mask's region is filled with grey 128.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The garment's context."),
                io.Conditioning.Output(
                    display_name="negative", tooltip="With the learned unconditional context."
                ),
                io.Latent.Output(
                    tooltip="The person's latent: the released start of sampling. For a start from "
                    "pure noise use an empty latent of this size."
                ),
            ],
        )

    @classmethod
    def execute(cls, **inputs) -> io.NodeOutput:
        return io.NodeOutput(*encode_conditioning(**inputs))


class StableVITONPasteBack(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONPasteBack",
            display_name="Paste Try-On Back",
            category=CATEGORY,
            description="Keep the person's own pixels outside the mask, exactly.",
            search_aliases=[*TRY_ON, "composite", "blend", "mask", "repaint"],
            inputs=[
                io.Image.Input("tryon", tooltip="The decoded try-on."),
                io.Image.Input("person", tooltip="The person image that the try-on was made from."),
                io.Mask.Input("mask", tooltip="White (1) where the try-on is taken."),
                io.Int.Input(
                    "feather",
                    default=4,
                    min=0,
                    max=256,
                    tooltip="Width of the transition in pixels. It lies inside the mask.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The person, with the try-on inside the mask.")],
        )

    @classmethod
    def execute(cls, person: Tensor, tryon: Tensor, mask: Tensor, feather: int) -> io.NodeOutput:
        person = to_rgb(person)
        height, width = person.shape[1:3]
        tryon = resize_image_to_person("try-on", tryon, height, width)
        mask = resize_mask_to_person("mask", mask, height, width)
        batch = find_batch_size({"person": len(person), "tryon": len(tryon), "mask": len(mask)})
        person, tryon, mask = (expand_batch(x, batch).to(person) for x in (person, tryon, mask))
        return io.NodeOutput(paste_back(person, tryon, mask, feather))
