"""The authors' sampling, and approximations: StableVITONPLMS, StableVITONSchedule,
StableVITONReuse."""

import torch
from comfy_api.latest import io

from ..stableviton_core.plms import plms_timesteps
from .host.plms_sampler import PLMSSampler
from .host.reuse import reuse_features
from .sockets import CATEGORY, TRY_ON


class StableVITONPLMS(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONPLMS",
            display_name="PLMS Sampler",
            category=CATEGORY,
            description="The released inference script's sampler, for SamplerCustom. Use it with "
            "PLMS Schedule; it starts from the latent noised to the last timestep, as "
            "released.",
            search_aliases=[*TRY_ON, "sampler", "plms"],
            inputs=[],
            outputs=[io.Sampler.Output(tooltip="For SamplerCustom.")],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(PLMSSampler())


class StableVITONSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONSchedule",
            display_name="PLMS Schedule",
            category=CATEGORY,
            description="The released timesteps 1, 1 + c, 1 + 2c ... with c = 1000 // steps.",
            search_aliases=[*TRY_ON, "scheduler", "sigmas", "steps"],
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
            outputs=[io.Sigmas.Output(tooltip="For SamplerCustom.")],
        )

    @classmethod
    def execute(cls, model, steps: int) -> io.NodeOutput:
        sigmas = model.get_model_object("model_sampling").sigmas
        return io.NodeOutput(sigmas[torch.tensor([*plms_timesteps(steps), 0])].cpu())


class StableVITONReuse(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONReuse",
            display_name="Reuse Features",
            category=CATEGORY,
            description="Sample faster and approximately: steps reuse features that earlier steps "
            "computed. docs/performance.md has the measured time and difference.",
            search_aliases=[*TRY_ON, "cache", "deepcache", "faster", "speed"],
            inputs=[
                io.Model.Input("model", tooltip="From Apply StableVITON."),
                io.Float.Input(
                    "garment_interval",
                    default=0.2,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Fraction of the noise schedule after which the garment features are "
                    "computed again. 0: at every step, as released.",
                ),
                io.Int.Input(
                    "deep_every",
                    default=2,
                    min=1,
                    max=10,
                    tooltip="The UNet below full resolution runs at every n-th step. 1: at every "
                    "step, as released.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="A patched copy; the model itself is unchanged.")],
        )

    @classmethod
    def execute(cls, model, garment_interval: float, deep_every: int) -> io.NodeOutput:
        return io.NodeOutput(reuse_features(model, garment_interval, deep_every))
