"""ComfyUI with the pack in this process, and sampling in it."""

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent


def load_host(
    base: str | Path, cpu: bool = True, flags: Sequence[str] = ()
) -> Callable[[str], ModuleType]:
    """Load the ComfyUI of COMFYUI_PATH with a base directory, and the pack as its custom node; the
    function that returns a module of the pack by its name below the root. flags: of ComfyUI's
    command line, to be set."""
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args

    args.cpu, args.base_directory = cpu, str(base)
    for flag in flags:
        setattr(args, flag, True)
    import nodes

    assert asyncio.run(nodes.load_custom_node(str(ROOT))), "the pack does not load"
    ending = ".nodes.host.adapter"
    pack = next(name for name in sys.modules if name.endswith(ending)).removesuffix(ending)
    return lambda name: sys.modules[f"{pack}.{name}"]


@dataclass(frozen=True)
class Sampling:
    """sampler: "plms" or one of ComfyUI's; scheduler and denoise (the part of the noise that is
    added and taken away again): for the latter."""

    sampler: str
    steps: int
    scheduler: str = ""
    garment_interval: float = 0.0
    deep_every: int = 1
    denoise: float = 1.0

    def __str__(self) -> str:
        parts = [self.sampler, *([self.scheduler] if self.scheduler else []), str(self.steps)]
        if self.garment_interval or self.deep_every > 1:
            parts.append(f"garment_interval {self.garment_interval}, deep_every {self.deep_every}")
        if self.denoise < 1:
            parts.append(f"denoise {self.denoise}")
        return ", ".join(parts)


RELEASED = Sampling("plms", 50)
FAST = Sampling("dpmpp_2m", 10, "karras", garment_interval=0.2, deep_every=2)  # tryon_fast.json


def sample(
    module: Callable[[str], ModuleType],
    loaded: tuple,
    sampling: Sampling,
    encoded: tuple,
    noise: Tensor,
) -> Tensor:
    """The unscaled latent. loaded: of `load_checkpoint`. encoded: of `encode_conditioning`."""
    import comfy.sample
    import comfy.samplers

    unet, stableviton, *_ = loaded
    positive, negative, start = encoded
    model = module("nodes.host.patch").patch_model(unet, stableviton, 1.0, 0.0, 1.0)
    if sampling.garment_interval or sampling.deep_every > 1:
        reuse = module("nodes.host.reuse").reuse_features
        model = reuse(model, sampling.garment_interval, sampling.deep_every)
    nodes = module("nodes.sampling")
    if sampling.sampler == "plms":
        (sampler,) = nodes.StableVITONPLMS.execute().result
        (sigmas,) = nodes.StableVITONSchedule.execute(model, sampling.steps).result
    else:
        sampler = comfy.samplers.sampler_object(sampling.sampler)
        schedule = model.get_model_object("model_sampling")
        steps = int(sampling.steps / sampling.denoise)
        sigmas = comfy.samplers.calculate_sigmas(schedule, sampling.scheduler, steps)
        sigmas = sigmas[-sampling.steps - 1 :]
    inputs = (sampler, sigmas, positive, negative, start["samples"])
    return comfy.sample.sample_custom(model, noise, 1.0, *inputs, disable_pbar=True)
