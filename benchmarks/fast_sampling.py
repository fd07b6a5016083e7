"""How far fewer steps and reused features are from the released sampling, and what they save.

    COMFYUI_PATH=... python benchmarks/fast_sampling.py [CHECKPOINT] [--pairs 8] [--height 256]
        [--rounds 1] [--image sheet.png] [--seeded]

Synthetic persons that the demo checkpoint was not trained on are dressed in another garment through
ComfyUI's own sampling on the CPU, fp32, batch 1, without guidance, from the person's noised latent,
every way with the same noise, the ways in turn. Distance: from PLMS with 50 steps, mean over pairs.
Latents: mean absolute difference over their standard deviation. Inside the mask: mean absolute
difference of the decoded image in 0..255, and SSIM (torchmetrics' defaults) with the true image.
Time: of sampling, median over pairs of the ratio to PLMS with 50 steps; CPU time of all threads.
--seeded: seeded weights of the tests' small network instead of a checkpoint, of which only latents
have a meaning. --image: garment, PLMS with 50 steps, the fast graph, and the truth.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from host_process import FAST, RELEASED, ROOT, Sampling, load_host, sample
from torch import Tensor

sys.path.append(str(ROOT))
sys.path.append(str(ROOT / "tests"))


WAYS = [
    RELEASED,
    Sampling("plms", 50, garment_interval=0.1),
    Sampling("plms", 50, garment_interval=0.2),
    Sampling("plms", 50, deep_every=2),
    Sampling("plms", 50, deep_every=3),
    Sampling("plms", 50, garment_interval=0.2, deep_every=2),
    Sampling("plms", 50, garment_interval=0.2, deep_every=5),
    Sampling("plms", 25),
    Sampling("plms", 10),
    *(
        Sampling(sampler, steps, scheduler)
        for steps in (20, 10)
        for sampler in ("dpmpp_2m", "uni_pc")
        for scheduler in ("karras", "sgm_uniform")
    ),
    FAST,
]


@dataclass
class Figures:
    seconds: list[float] = field(default_factory=list)
    latents: list[float] = field(default_factory=list)
    pixels: list[float] = field(default_factory=list)
    images: list[np.ndarray] = field(default_factory=list)


def encode(module: Callable, loaded: tuple, person, garment: np.ndarray) -> tuple:
    """A synthetic sample's conditioning, with another garment."""
    to_images = module("stableviton_core.image_tensors").to_images

    def image(array: np.ndarray) -> Tensor:
        return to_images(array[None])

    _, stableviton, clip_vision, vae = loaded
    mask = torch.from_numpy(person.mask[None]).float() / 255
    inputs = {"person": image(person.image), "mask": mask}
    inputs |= {"densepose": image(person.densepose), "garment": image(garment)}
    with torch.inference_mode():
        encode_conditioning = module("nodes.host.conditioning").encode_conditioning
        return encode_conditioning(stableviton, clip_vision, vae, **inputs)


def measure(module: Callable, loaded: tuple, pairs: list, rounds: int) -> dict[Sampling, Figures]:
    import comfy.sample

    vae = loaded[3]
    figures = {way: Figures() for way in WAYS}
    for number, (person, target) in enumerate(pairs):
        encoded = encode(module, loaded, person, target.garment)
        noise = comfy.sample.prepare_noise(encoded[2]["samples"], 0)
        region = person.mask == 255
        for way in WAYS:
            seconds = []
            for _ in range(rounds):
                start = time.process_time()
                with torch.inference_mode():
                    latent = sample(module, loaded, way, encoded, noise)
                seconds.append(time.process_time() - start)
            with torch.inference_mode():
                decoded = vae.decode(latent)[0].mul(255).round().numpy()
            if way == RELEASED:
                expected, expected_image = latent, decoded
            row = figures[way]
            row.seconds.append(statistics.median(seconds))
            row.latents.append(((latent - expected).abs().mean() / expected.std()).item())
            row.pixels.append(float(np.abs(decoded - expected_image)[region].mean()))
            row.images.append(decoded.astype(np.uint8))
        print(f"pair {number + 1} of {len(pairs)}", file=sys.stderr)
    return figures


def print_table(figures: dict[Sampling, Figures], pairs: list) -> None:
    from demo_quality import average_inside, compute_ssim_maps

    truth = np.stack([target.image for _, target in pairs])
    masks = np.stack([target.mask for _, target in pairs])
    print("| way | time | latents | pixels inside | SSIM with the truth |\n|---|---|---|---|---|")
    for way, row in figures.items():
        ratios = [a / b for a, b in zip(row.seconds, figures[RELEASED].seconds, strict=True)]
        latents, pixels = statistics.mean(row.latents), statistics.mean(row.pixels)
        ssim = average_inside(compute_ssim_maps(np.stack(row.images), truth), masks)
        time_ratio = statistics.median(ratios)
        print(f"| {way} | {time_ratio:.3f} | {latents:.4f} | {pixels:.2f} | {ssim:.3f} |")


def write_sheet(path: Path, figures: dict[Sampling, Figures], pairs: list) -> None:
    from stableviton_core.images import make_image_grid, write_image

    columns = [np.stack([target.garment for _, target in pairs])]
    columns += [np.stack(figures[way].images) for way in (RELEASED, FAST)]
    columns.append(np.stack([target.image for _, target in pairs]))
    write_image(path, make_image_grid(*(column[:4] for column in columns)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ROOT / "demo" / "stableviton-demo.safetensors"
    parser.add_argument("checkpoint", type=Path, nargs="?", default=default)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--seeded", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        module = load_host(base)
        from stableviton_core.synthetic.write_dataset import TEST_SEED_OFFSET, generate_samples

        checkpoint = arguments.checkpoint
        if arguments.seeded:
            from helpers.checkpoints import write_checkpoint

            checkpoint = write_checkpoint(Path(base, "small.safetensors"))
        loaded = module("nodes.host.load_checkpoint").load_checkpoint(checkpoint, "fp32")
        seed = TEST_SEED_OFFSET + 1
        pairs = list(generate_samples(arguments.pairs, 2, arguments.height, seed=seed))
        figures = measure(module, loaded, pairs, arguments.rounds)
        name = "seeded weights" if arguments.seeded else checkpoint.name
        print(f"{name}, {arguments.pairs} pairs of height {arguments.height}, CPU, fp32")
        print_table(figures, pairs)
        if arguments.image:
            write_sheet(arguments.image, figures, pairs)


if __name__ == "__main__":
    main()
