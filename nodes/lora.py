"""A LoRA on a checkpoint's own networks: StableVITONLora."""

from comfy_api.latest import io

from .host.adapter import StableVITON
from .host.lora import apply_lora, find_lora, list_loras
from .sockets import CATEGORY, TRY_ON, StableVITONSocket


class StableVITONLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONLora",
            display_name="Load StableVITON LoRA",
            category=CATEGORY,
            description="Add a LoRA, trained on one garment or a small wardrobe, to spatial "
            "encoder and zero cross-attention.",
            search_aliases=[*TRY_ON, "lora", "fine-tune"],
            inputs=[
                StableVITONSocket.Input(
                    "stableviton", tooltip="From Load StableVITON, or from another LoRA."
                ),
                io.Combo.Input(
                    "lora_name",
                    options=list_loras(),
                    tooltip="A file in models/loras that `stableviton train --lora-rank` wrote, "
                    "for a checkpoint of this size.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-4.0,
                    max=4.0,
                    step=0.01,
                    tooltip="Factor of the LoRA's updates. 1 as trained; 0 leaves the networks as "
                    "they are.",
                ),
            ],
            outputs=[
                StableVITONSocket.Output(
                    display_name="stableviton",
                    tooltip="A copy with the LoRA, for Apply StableVITON and Encode "
                    "Try-On; what came in is unchanged.",
                )
            ],
        )

    @classmethod
    def execute(cls, stableviton: StableVITON, lora_name: str, strength: float) -> io.NodeOutput:
        if strength == 0:
            return io.NodeOutput(stableviton)
        return io.NodeOutput(apply_lora(stableviton, find_lora(lora_name), strength))
