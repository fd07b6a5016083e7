"""How well demo checkpoints dress paper dolls that they never saw.

    python benchmarks/demo_quality.py [CHECKPOINT ...] [--pairs 64] [--height 256]

Each doll wears one garment and is asked to wear another; both true pictures are known. Sampling:
our PLMS, 20 steps, from pure noise, guidance 1, before paste-back. SSIM: torchmetrics' defaults on
RGB in 0..1. Ceiling: the VAE's own reconstruction of the truth. Floor: the agnostic image.
Attention: where the person tokens look on the garment (objective.py), in every zero cross-attention
block, for persons at timestep 500: its total variation, and how far that is from where what they
show of the worn garment lies, both in tokens of the block. Several
checkpoints are measured side by side, such as one before and after `--phase atv`. Prints tables
and writes the first pairs of each as a sheet.
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

from stableviton_core.images import paste_back  # noqa: E402
from stableviton_core.synthetic import SyntheticSample  # noqa: E402
from stableviton_core.synthetic.write_dataset import UNSEEN, random_samples, sample_of  # noqa: E402
from stableviton_core.training.checkpointing import load_model  # noqa: E402
from stableviton_core.training.dataset import Sample  # noqa: E402
from stableviton_core.training.latents import decode, encode, encode_samples  # noqa: E402
from stableviton_core.training.losses import (  # noqa: E402
    Draw,
    attention_total_variation,
    expected_coordinates,
    model_inputs,
    record_attention,
    token_grid,
    true_coordinates,
)
from stableviton_core.training.model import TryOnModel  # noqa: E402
from stableviton_core.training.validation import save_picture, sheet, try_on  # noqa: E402

BATCH = 8
ATTENTION_TIMESTEP = 500


def unit(images: np.ndarray) -> Tensor:
    """uint8 N H W C -> N C H W in 0..1."""
    return torch.from_numpy(images).movedim(-1, 1).float() / 255


def ssim_maps(images: np.ndarray, truth: np.ndarray) -> Tensor:
    """SSIM of every pixel, N x H x W."""
    _, maps = structural_similarity_index_measure(
        unit(images), unit(truth), data_range=1.0, reduction="none", return_full_image=True
    )
    return maps.mean(dim=1)


def ssim(images: np.ndarray, truth: np.ndarray) -> float:
    return structural_similarity_index_measure(unit(images), unit(truth), data_range=1.0).item()


def inside(maps: Tensor, mask: np.ndarray) -> float:
    """Mean over pictures of the mean where the mask is white."""
    white = torch.from_numpy(mask == 255)
    return torch.stack([m[w].mean() for m, w in zip(maps, white, strict=True)]).mean().item()


def right_garment(results: np.ndarray, worn: np.ndarray, asked: np.ndarray, region: np.ndarray):
    """For each picture: is the result nearer (L1, in the asked garment's region) to the person in
    the asked garment than to the person in the worn one?"""

    def distance(truth: np.ndarray) -> np.ndarray:
        difference = np.abs(results.astype(int) - truth).mean(axis=-1)
        return np.array([d[r == 255].mean() for d, r in zip(difference, region, strict=True)])

    return distance(asked) < distance(worn)


def chunks(items: list) -> list[list]:
    return [items[first : first + BATCH] for first in range(0, len(items), BATCH)]


def report_attention(model: TryOnModel, autoencoder, worn: list[Sample]) -> None:
    config = model.config.network
    blocks = range(len(config.cross_attention_widths))
    maps = record_attention(model.network.zero_cross_attention, blocks)
    variations, distances = defaultdict(list), defaultdict(list)
    for index, chunk in enumerate(chunks(worn)):
        batch = encode_samples(autoencoder, model, chunk)
        noise = torch.randn(batch.person.shape, generator=torch.Generator().manual_seed(index))
        timesteps = torch.full((len(chunk),), ATTENTION_TIMESTEP)
        model(**model_inputs(batch, Draw(timesteps, noise, torch.zeros(len(chunk)).bool())))
        for block in blocks:
            grid = token_grid(config, block, *batch.person.shape[2:])
            variation = attention_total_variation(maps[block], grid, batch.warped)
            variations[block].append(variation.item())
            truth, shown = true_coordinates(batch.garment_coordinates, grid)
            away = expected_coordinates(maps[block], grid) - truth
            distances[block].append(away.norm(dim=-1)[shown].mean().item())
    for block in blocks:
        rows, columns = token_grid(config, block, *batch.person.shape[2:])
        print(
            f"attention of block {block}, {rows} x {columns} tokens: total variation "
            f"{np.mean(variations[block]):.3f}, from the right place "
            f"{np.mean(distances[block]):.2f} tokens"
        )


def reconstructed(autoencoder, images: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [decode(autoencoder, encode(autoencoder, np.stack(c))) for c in chunks(list(images))]
    )


def report(
    checkpoint: Path, wearing: list[SyntheticSample], asked: list[SyntheticSample], picture: Path
) -> None:
    model, autoencoder, _ = load_model(checkpoint)
    model.eval()
    # the person as photographed, with the other garment
    samples = [
        replace(sample_of(worn), garment=wanted.garment)
        for worn, wanted in zip(wearing, asked, strict=True)
    ]
    results = np.concatenate(
        [
            decode(autoencoder, try_on(model, encode_samples(autoencoder, model, c), 20, seed=i))
            for i, c in enumerate(tqdm(chunks(samples), desc="sampling"))
        ]
    )
    truth = np.stack([doll.image for doll in asked])
    worn = np.stack([doll.image for doll in wearing])
    mask = np.stack([doll.mask for doll in asked])
    rows = {
        "VAE of the truth (ceiling)": reconstructed(autoencoder, truth),
        "result": results,
        "agnostic (floor)": np.stack([doll.agnostic for doll in wearing]),
    }
    print(f"\n{checkpoint.name}: {len(asked)} unseen pairs, {truth.shape[1]} x {truth.shape[2]}")
    print("| picture | SSIM, image | SSIM, inside the mask |\n|---|---|---|")
    scores = {}
    for name, pictures in rows.items():
        scores[name] = inside(ssim_maps(pictures, truth), mask)
        print(f"| {name} | {ssim(pictures, truth):.3f} | {scores[name]:.3f} |")
    top, score, bottom = scores.values()
    print(
        f"inside the mask: {(score - bottom) / (top - bottom):.0%} of the way from floor to ceiling"
    )
    region = np.stack([doll.worn for doll in asked])
    for name in ("result", "VAE of the truth (ceiling)"):
        correct = right_garment(rows[name], worn, truth, region)
        print(f"right garment, {name}: {correct.mean():.1%} of the pairs")
    white = torch.from_numpy(mask).float() / 255
    person, tryon = (torch.from_numpy(images).float() / 255 for images in (worn, results))
    pasted = paste_back(person, tryon, white, feather=4)
    print(f"outside the mask unchanged: {torch.equal(pasted[white == 0], person[white == 0])}")
    report_attention(model, autoencoder, [sample_of(doll) for doll in wearing])

    garments = np.stack([sample.garment for sample in samples])
    save_picture(picture, sheet(*(images[:8] for images in (garments, worn, results, truth))))
    print(f"garment, worn, result, truth: {picture}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ROOT / "demo" / "stableviton-demo.safetensors"
    parser.add_argument("checkpoints", type=Path, nargs="*", default=[default])
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--sheets", type=Path, default=ROOT / "output", help="folder")
    arguments = parser.parse_args()
    people = list(random_samples(arguments.pairs, 2, arguments.height, seed=UNSEEN + 1))
    wearing, asked = [list(dolls) for dolls in zip(*people, strict=True)]
    arguments.sheets.mkdir(parents=True, exist_ok=True)
    for index, checkpoint in enumerate(arguments.checkpoints):
        report(checkpoint, wearing, asked, arguments.sheets / f"demo_quality-{index}.png")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
