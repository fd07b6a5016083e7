"""Try-on quality of demo checkpoints on synthetic persons that they were not trained on.

    python benchmarks/demo_quality.py [CHECKPOINT ...] [--pairs 64] [--height 256]

Each person wears one garment and is dressed in another; the ground truth of both is known.
Sampling: PLMS, 20 steps, from pure noise, guidance 1, before paste-back. SSIM: torchmetrics'
defaults on RGB in 0..1. Ceiling: the VAE's reconstruction of the ground truth. Floor: the agnostic
image. Attention: expected garment coordinates of the person tokens in every zero cross-attention
block (losses.py), at timestep 500: their total variation, and their distance from the true
coordinates, both in tokens of the block. Prints tables, and writes the first pairs of each
checkpoint as an image grid.
"""

import argparse
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from stableviton_core.dataset.samples import Sample  # noqa: E402
from stableviton_core.image_tensors import paste_back, to_channels_first, to_images  # noqa: E402
from stableviton_core.images import make_image_grid, write_image  # noqa: E402
from stableviton_core.inference.encoding import encode_samples  # noqa: E402
from stableviton_core.inference.sampling import draw_noise, sample_tryon  # noqa: E402
from stableviton_core.model.attention_recorder import AttentionRecorder, token_grid  # noqa: E402
from stableviton_core.model.pretrained import load_model  # noqa: E402
from stableviton_core.model.tryon_model import TryOnModel  # noqa: E402
from stableviton_core.model.vae import decode_latents, encode_images  # noqa: E402
from stableviton_core.synthetic.renderer import SyntheticSample  # noqa: E402
from stableviton_core.synthetic.write_dataset import TEST_SEED_OFFSET, generate_samples  # noqa: E402
from stableviton_core.training.losses import (  # noqa: E402
    TimestepsAndNoise,
    attention_total_variation,
    expected_coordinates,
    make_model_inputs,
    true_coordinates,
)

BATCH_SIZE = 8
GRID_ROWS = 8
ATTENTION_TIMESTEP = 500


def to_batch(images: np.ndarray) -> Tensor:
    """B x H x W x 3 uint8 -> B x 3 x H x W in 0..1."""
    return to_channels_first(to_images(images))


def compute_ssim_maps(images: np.ndarray, truth: np.ndarray) -> Tensor:
    """SSIM of every pixel, B x H x W."""
    _, maps = structural_similarity_index_measure(
        to_batch(images), to_batch(truth), data_range=1.0, reduction="none", return_full_image=True
    )
    return maps.mean(dim=1)


def compute_ssim(images: np.ndarray, truth: np.ndarray) -> float:
    return structural_similarity_index_measure(
        to_batch(images), to_batch(truth), data_range=1.0
    ).item()


def average_inside(maps: Tensor, masks: np.ndarray) -> float:
    """Mean over images of the mean where the mask is 255."""
    inside = torch.from_numpy(masks == 255)
    return torch.stack([m[i].mean() for m, i in zip(maps, inside, strict=True)]).mean().item()


def has_right_garment(
    results: np.ndarray, worn: np.ndarray, target: np.ndarray, regions: np.ndarray
) -> np.ndarray:
    """B bool: is the result nearer (L1, in the new garment's region) to the person in the new
    garment (target) than to the person in the old one (worn)?"""

    def distance(truth: np.ndarray) -> np.ndarray:
        difference = np.abs(results.astype(int) - truth).mean(axis=-1)
        return np.array([d[r == 255].mean() for d, r in zip(difference, regions, strict=True)])

    return distance(target) < distance(worn)


def chunk(items: list) -> list[list]:
    return [items[first : first + BATCH_SIZE] for first in range(0, len(items), BATCH_SIZE)]


def report_attention(model: TryOnModel, autoencoder, samples: list[Sample]) -> None:
    config = model.config.network
    blocks = range(len(config.cross_attention_channels))
    recorder = AttentionRecorder(model.network.zero_cross_attention, blocks)
    variations, distances = defaultdict(list), defaultdict(list)
    for seed, group in enumerate(chunk(samples)):
        batch = encode_samples(autoencoder, model, group)
        noise = torch.randn(batch.person.shape, generator=torch.Generator().manual_seed(seed))
        timesteps = torch.full((len(group),), ATTENTION_TIMESTEP)
        no_drop = torch.zeros(len(group), dtype=torch.bool)
        model(**make_model_inputs(batch, TimestepsAndNoise(timesteps, noise, no_drop)))
        for block in blocks:
            attention = recorder.maps[block]
            grid = token_grid(config, block, *batch.person.shape[2:])
            variation = attention_total_variation(attention, grid, batch.warped_mask)
            variations[block].append(variation.item())
            truth, visible = true_coordinates(batch.garment_coordinates, grid)
            error = (expected_coordinates(attention, grid) - truth).norm(dim=-1)
            distances[block].append(error[visible].mean().item())
    for block in blocks:
        rows, columns = token_grid(config, block, *batch.person.shape[2:])
        print(
            f"attention of block {block}, {rows} x {columns} tokens: total variation "
            f"{np.mean(variations[block]):.3f}, from the true coordinates "
            f"{np.mean(distances[block]):.2f} tokens"
        )


def reconstruct(autoencoder, images: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [
            decode_latents(autoencoder, encode_images(autoencoder, np.stack(group)))
            for group in chunk(list(images))
        ]
    )


def report(
    checkpoint: Path, persons: list[SyntheticSample], targets: list[SyntheticSample], file: Path
) -> None:
    """persons: as photographed. targets: the same persons in the garments to try on."""
    model, autoencoder, _ = load_model(checkpoint)
    model.eval()
    samples = [
        replace(person, garment=target.garment)
        for person, target in zip(persons, targets, strict=True)
    ]
    results = []
    for seed, group in enumerate(tqdm(chunk(samples), desc="sampling")):
        batch = encode_samples(autoencoder, model, group)
        names = [f"{seed}/{item}" for item in range(len(group))]
        noise = draw_noise(names, batch.person.shape[1:], seed=0)
        latents = sample_tryon(model, batch, noise, steps=20, start="noise")
        results.append(decode_latents(autoencoder, latents))
    results = np.concatenate(results)
    truth = np.stack([target.image for target in targets])
    worn = np.stack([person.image for person in persons])
    masks = np.stack([target.mask for target in targets])
    rows = {
        "VAE of the truth (ceiling)": reconstruct(autoencoder, truth),
        "result": results,
        "agnostic (floor)": np.stack([person.agnostic for person in persons]),
    }
    print(f"\n{checkpoint.name}: {len(targets)} unseen pairs, {truth.shape[1]} x {truth.shape[2]}")
    print("| image | SSIM, image | SSIM, inside the mask |\n|---|---|---|")
    scores = {}
    for name, images in rows.items():
        scores[name] = average_inside(compute_ssim_maps(images, truth), masks)
        print(f"| {name} | {compute_ssim(images, truth):.3f} | {scores[name]:.3f} |")
    top, score, bottom = scores.values()
    print(
        f"inside the mask: {(score - bottom) / (top - bottom):.0%} of the way from floor to ceiling"
    )
    regions = np.stack([target.warped_mask for target in targets])
    for name in ("result", "VAE of the truth (ceiling)"):
        correct = has_right_garment(rows[name], worn, truth, regions)
        print(f"right garment, {name}: {correct.mean():.1%} of the pairs")
    mask = torch.from_numpy(masks).float() / 255
    person, tryon = to_images(worn), to_images(results)
    pasted = paste_back(person, tryon, mask, feather=4)
    print(f"outside the mask unchanged: {torch.equal(pasted[mask == 0], person[mask == 0])}")
    report_attention(model, autoencoder, persons)

    garments = [sample.garment for sample in samples]
    columns = (garments, worn, results, truth)
    write_image(file, make_image_grid(*(images[:GRID_ROWS] for images in columns)))
    print(f"garment, person, result, truth: {file}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ROOT / "demo" / "stableviton-demo.safetensors"
    parser.add_argument("checkpoints", type=Path, nargs="*", default=[default])
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--output", type=Path, default=ROOT / "output", help="folder of the grids")
    arguments = parser.parse_args()
    people = generate_samples(arguments.pairs, 2, arguments.height, seed=TEST_SEED_OFFSET + 1)
    persons, targets = map(list, zip(*people, strict=True))
    for index, checkpoint in enumerate(arguments.checkpoints):
        report(checkpoint, persons, targets, arguments.output / f"demo_quality-{index}.png")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
