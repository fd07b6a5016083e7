"""The authors' sampling: StableVITONPLMS and StableVITONSchedule."""

import torch
from comfy_api.latest import io

from ..stableviton_core.plms import plms_timesteps
from .host.plms_sampler import PLMSSampler
from .sockets import CATEGORY


class StableVITONPLMS(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONPLMS",
            display_name="StableVITON PLMS",
            category=CATEGORY,
            description="The released inference script's sampler, for SamplerCustom. Use it with "
            "StableVITON Schedule; it starts from the latent noised to the last timestep, as "
            "released.",
            inputs=[],
            outputs=[io.Sampler.Output()],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(PLMSSampler())


class StableVITONSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONSchedule",
            display_name="StableVITON Schedule",
            category=CATEGORY,
            description="The released timesteps 1, 1 + c, 1 + 2c ... with c = 1000 // steps.",
            inputs=[
                io.Model.Input("model", tooltip="The model to be sampled."),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=1,
                    max=1000,
                    tooltip="50 as released. Numbers that do not divide 1000 give a few more.",
                ),
            ],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    def execute(cls, model, steps: int) -> io.NodeOutput:
        sigmas = model.get_model_object("model_sampling").sigmas
        return io.NodeOutput(sigmas[torch.tensor([*plms_timesteps(steps), 0])].cpu())
