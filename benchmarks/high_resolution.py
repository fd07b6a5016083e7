"""Two passes, the second at twice the size and little noise, against plain upscaling of the first.

    COMFYUI_PATH=... python benchmarks/high_resolution.py [CHECKPOINT] [--pairs 16] [--height 128]
        [--image FILE]

Synthetic persons that the demo checkpoint was not trained on are dressed in another garment through
ComfyUI's own sampling on the CPU, fp32, without guidance, see workflows/api/tryon_photo_hires.json:
a first pass at `--height`, PLMS with 50 steps; its image enlarged twice (Pillow, Lanczos); a second
pass from that. SSIM (torchmetrics' defaults) inside the mask with the true image at the larger
size, mean over pairs, of the enlarged image, of second passes, and of one pass at the larger size.
--image: garment, first pass enlarged, second pass as in the graph, truth.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from host_process import RELEASED, ROOT, Sampling, load_host, sample
from PIL import Image

sys.path.append(str(ROOT))

GRAPH = Sampling("dpmpp_2m", 20, "karras", denoise=0.5)  # workflows/api/tryon_photo_hires.json
SECOND_PASSES = [
    *(Sampling("dpmpp_2m", 20, "karras", denoise=denoise) for denoise in (0.2, 0.35)),
    GRAPH,
    *(Sampling("dpmpp_2m", 20, "karras", denoise=denoise) for denoise in (0.65, 0.8)),
]
ONE_PASS = "one pass at the larger size"
ENLARGED = "first pass, enlarged"


def dress_twice(module: Callable, loaded: tuple, small: tuple, large: tuple) -> dict:
    """Images H x W x 3 uint8 by way. small, large: person and target, drawn at both sizes."""
    import comfy.sample
    from fast_sampling import encode

    vae, tools = loaded[3], module("stableviton_core.image_tensors")
    encoded = encode(module, loaded, small[0], small[1].garment)
    noise = comfy.sample.prepare_noise(encoded[2]["samples"], 0)
    first = vae.decode(sample(module, loaded, RELEASED, encoded, noise))
    person = large[0]
    size = person.image.shape[1::-1]
    enlarged = np.asarray(Image.fromarray(tools.to_arrays(first)[0]).resize(size, Image.LANCZOS))
    encoded = encode(module, loaded, person, large[1].garment)
    noise = comfy.sample.prepare_noise(encoded[2]["samples"], 1)
    mask = torch.from_numpy(person.mask[None]).float() / 255
    pasted = tools.paste_back(
        tools.to_images([person.image]), tools.to_images([enlarged]), mask, feather=4
    )
    start = {"samples": vae.encode(pasted)}
    latents = {
        str(way): sample(module, loaded, way, (*encoded[:2], start), noise) for way in SECOND_PASSES
    }
    latents[ONE_PASS] = sample(module, loaded, RELEASED, encoded, noise)
    images = {way: tools.to_arrays(vae.decode(latent))[0] for way, latent in latents.items()}
    return {ENLARGED: enlarged} | images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ROOT / "demo" / "stableviton-demo.safetensors"
    parser.add_argument("checkpoint", type=Path, nargs="?", default=default)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--image", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as base, torch.inference_mode():
        module = load_host(base)
        from demo_quality import average_inside, compute_ssim_maps

        from stableviton_core.images import make_image_grid, write_image
        from stableviton_core.synthetic.write_dataset import TEST_SEED_OFFSET, generate_samples

        loaded = module("nodes.host.load_checkpoint").load_checkpoint(arguments.checkpoint, "fp32")
        small, large = (
            list(generate_samples(arguments.pairs, 2, height, seed=TEST_SEED_OFFSET + 2))
            for height in (arguments.height, 2 * arguments.height)
        )
        dressed = []
        for number, pair in enumerate(zip(small, large, strict=True), start=1):
            dressed.append(dress_twice(module, loaded, *pair))
            print(f"pair {number} of {arguments.pairs}", file=sys.stderr)
        masks = np.stack([person.mask for person, _ in large])
        truth = np.stack([target.image for _, target in large])
        print("| way | SSIM inside the mask |\n|---|---|")
        for way in dressed[0]:
            images = np.stack([item[way] for item in dressed])
            print(f"| {way} | {average_inside(compute_ssim_maps(images, truth), masks):.3f} |")
        if arguments.image:
            columns = [np.stack([target.garment for _, target in large])]
            columns += [np.stack([item[way] for item in dressed]) for way in (ENLARGED, str(GRAPH))]
            write_image(
                arguments.image, make_image_grid(*(column[:4] for column in (*columns, truth)))
            )


if __name__ == "__main__":
    main()
