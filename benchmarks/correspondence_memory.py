"""Memory and time of the correspondence node against sampling, at the released size.

    COMFYUI_PATH=... python benchmarks/correspondence_memory.py [--weights FILE] [--steps 2]

Seeded weights in fp32 on the CPU, random images of 512 x 384 and 1024 x 768, batch 1. Sampling is
Euler without guidance; then the node StableVITONCorrespondence runs over the latent, and
StableVITONDetail and StableVITONScore on its field. Memory: resident, at its peak, after the
weights were loaded and used once; what each adds to them.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from full_size import write_full_size
from host_process import Sampling, load_host, sample
from process_memory import PeakMonitor
from torch import Tensor

SIZES = ((512, 384), (1024, 768))  # height, width
TORSO = 2  # DensePose's part index
GIBIBYTE = 2**30


def make_images(height: int, width: int, palette: np.ndarray) -> dict[str, Tensor]:
    """IMAGEs and a MASK: noise, but for a mask and a DensePose torso in the middle."""
    generator = torch.Generator().manual_seed(0)
    images = {
        name: torch.rand(1, height, width, 3, generator=generator) for name in ("person", "garment")
    }
    middle = torch.zeros(1, height, width)
    middle[:, height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 1
    torso = middle[..., None] * torch.from_numpy(palette[TORSO]) / 255
    return images | {"mask": middle, "densepose": torso}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="of full_size.py; written where not given")
    parser.add_argument("--steps", type=int, default=2)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        weights = arguments.weights or base / "full.safetensors"
        if not weights.is_file():
            write_full_size(weights, "fp32")
        module = load_host(base)
        with torch.inference_mode():
            measure_all(module, weights, arguments.steps)


def measure_all(module: Callable, weights: Path, steps: int) -> None:
    loaded = module("nodes.host.load_checkpoint").load_checkpoint(weights, "fp32")
    encode = module("nodes.host.conditioning").encode_conditioning
    palette = module("stableviton_core.person.densepose").PARULA_PALETTE
    print("| size | what | seconds | peak GiB | of sampling |\n|---|---|---|---|---|")
    for size in SIZES:
        images = make_images(*size, palette)
        encoded = encode(*loaded[1:], **images)
        measure_size(module, loaded, encoded, images, steps)


def measure_size(
    module: Callable, loaded: tuple, encoded: tuple, images: dict[str, Tensor], steps: int
) -> None:
    height, width = images["mask"].shape[1:]
    noise = torch.randn(encoded[2]["samples"].shape, generator=torch.manual_seed(0))
    run = partial(sample, module, loaded, Sampling("euler", steps, "normal"), encoded, noise)
    run()
    latent, seconds, sampling = measure(run)
    report(height, width, f"sampling, {steps} steps", seconds, sampling, sampling)
    find = partial(find_field, module, loaded, encoded, latent, images)
    field, seconds, peak = measure(find)
    report(height, width, "Find Correspondence", seconds, peak, sampling)
    for name, use in (("Carry Over Details", use_detail), ("Score Try-On", use_score)):
        _, seconds, peak = measure(partial(use, module, field, images))
        report(height, width, name, seconds, peak, sampling)


def find_field(module: Callable, loaded: tuple, encoded: tuple, latent: Tensor, images: dict):
    model = module("nodes.host.patch").patch_model(loaded[0], loaded[1], 1.0, 0.0, 1.0)
    node = module("nodes.correspondence").StableVITONCorrespondence
    _, _, field, _ = node.execute(
        model=model,
        positive=encoded[0],
        latent={"samples": latent},
        tryon=images["person"],
        garment=images["garment"],
        garment_mask=torch.ones_like(images["mask"]),
        densepose=images["densepose"],
        show="coordinates",
        point_x=0.5,
        point_y=0.5,
        timestep=100,
    ).result
    return field


def use_detail(module: Callable, field, images: dict) -> None:
    node = module("nodes.details").StableVITONDetail
    node.execute(**list_inputs(field, images), strength=1.0, coarsest=0.06, finest=0.0)


def use_score(module: Callable, field, images: dict) -> None:
    module("nodes.details").StableVITONScore.execute(**list_inputs(field, images))


def list_inputs(field, images: dict) -> dict:
    ones = torch.ones_like(images["mask"])
    same = {name: images[name] for name in ("garment", "mask")}
    return {"tryon": images["person"], "field": field, "garment_mask": ones, **same}


def measure(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it returns, seconds, and peak resident memory in GiB."""
    with PeakMonitor("VmRSS") as monitor:
        start = time.perf_counter()
        value = run()
        seconds = time.perf_counter() - start
    return value, seconds, monitor.peak / GIBIBYTE


def report(
    height: int, width: int, name: str, seconds: float, peak: float, sampling: float
) -> None:
    print(
        f"| {width} x {height} | {name} | {seconds:.1f} | {peak:.2f} | {peak / sampling:.2f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
