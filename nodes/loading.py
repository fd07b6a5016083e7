"""StableVITONLoader."""

from comfy_api.latest import io

from .host.folders import checkpoint_names, checkpoint_path
from .host.load_checkpoint import WEIGHT_DTYPES, load_checkpoint
from .sockets import CATEGORY, StableVITONSocket


class StableVITONLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONLoader",
            display_name="Load StableVITON",
            category=CATEGORY,
            description="Load a StableVITON checkpoint: unet, garment network, CLIP tower, VAE.",
            search_aliases=["virtual try-on", "viton", "clothes"],
            inputs=[
                io.Combo.Input(
                    "ckpt_name",
                    options=checkpoint_names(),
                    tooltip="A file in models/stableviton or models/checkpoints: a released "
                    "VITONHD*.ckpt, a converted .safetensors, or the small demo checkpoint.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="default",
                    tooltip="Type of the weights in memory. default: ComfyUI decides for your "
                    "device. fp16 halves the memory of an fp32 file.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The 13-channel unet, not yet patched."),
                StableVITONSocket.Output(
                    display_name="stableviton",
                    tooltip="Spatial encoder, zero cross-attention and condition head.",
                ),
                io.ClipVision.Output(tooltip="The CLIP tower that looks at the garment."),
                io.Vae.Output(tooltip="The checkpoint's VAE."),
            ],
        )

    @classmethod
    def execute(cls, ckpt_name: str, weight_dtype: str) -> io.NodeOutput:
        return io.NodeOutput(*load_checkpoint(checkpoint_path(ckpt_name), weight_dtype))
