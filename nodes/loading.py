"""Loading a checkpoint: StableVITONLoader."""

from comfy_api.latest import io

from .host.dtypes import WEIGHT_DTYPES
from .host.folders import find_checkpoint, list_checkpoints
from .host.load_checkpoint import load_checkpoint
from .sockets import CATEGORY, TRY_ON, StableVITONSocket


class StableVITONLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONLoader",
            display_name="Load StableVITON",
            category=CATEGORY,
            description="Load a StableVITON checkpoint: UNet, spatial encoder with zero cross-"
            "attention, image projector, CLIP image encoder, VAE.",
            search_aliases=[*TRY_ON, "checkpoint", "load model"],
            inputs=[
                io.Combo.Input(
                    "ckpt_name",
                    options=list_checkpoints(),
                    tooltip="A file in models/stableviton or models/checkpoints: a released "
                    "VITONHD*.ckpt, a converted .safetensors, or the small demo checkpoint.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="default",
                    advanced=True,
                    tooltip="Type of the weights in memory. default: ComfyUI decides for your "
                    "device. fp16 halves the memory of an fp32 file.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The UNet with 13 input channels, not yet patched."),
                StableVITONSocket.Output(
                    display_name="stableviton",
                    tooltip="Spatial encoder, zero cross-attention and image projector.",
                ),
                io.ClipVision.Output(tooltip="The CLIP image encoder for the garment."),
                io.Vae.Output(tooltip="The checkpoint's VAE."),
            ],
        )

    @classmethod
    def execute(cls, ckpt_name: str, weight_dtype: str) -> io.NodeOutput:
        return io.NodeOutput(*load_checkpoint(find_checkpoint(ckpt_name), weight_dtype))
