"""Where the garment lands, against the truth: the correspondence, the details it carries over, and
the score, on synthetic persons that the checkpoints were not trained on.

    python benchmarks/correspondence.py [CHECKPOINT ...] [--pairs 64] [--seeds 4] [--height 256]
        [--blocks 2 3] [--errors-only] [--image FILE]

Each person wears one garment and is dressed in another, with PLMS in 20 steps from pure noise and
guidance 1. Then one more pass over the result, with noise of timestep 100, gives the attention.

Errors: of the garment coordinate of every pixel that shows the new garment, in tokens of the finest
block (8 pixels) and in pixels; raw: the peak of a block's attention, at its tokens; fitted: the
field of a block, and of all.

Detail: SSIM (torchmetrics' defaults) inside the mask with the true image; the share of results that
are nearer to the new garment than to the old one; the lettered garments whose letter correlates
better with the true image than with the same in each other letter of the alphabet.

Score: Spearman correlation with the true SSIM over all pairs and seeds; and what the best of the
seeds by score gains of what the best by truth gains. The first checkpoint is measured in full, the
others (or all, with --errors-only) for their errors.
"""

import argparse
import string
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from demo_quality import average_inside, chunk, compute_ssim_maps, has_right_garment
from scipy.stats import spearmanr
from torch import Tensor
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from stableviton_core.correspondence.attention_summary import AttentionSummary, locate_tokens  # noqa: E402
from stableviton_core.correspondence.carry_details import DetailOptions, carry_details  # noqa: E402
from stableviton_core.correspondence.draw_field import draw_side_by_side  # noqa: E402
from stableviton_core.correspondence.field import CorrespondenceField  # noqa: E402
from stableviton_core.correspondence.result_pass import fit_sample, read_result_attention  # noqa: E402
from stableviton_core.correspondence.score import score_tryons  # noqa: E402
from stableviton_core.image_tensors import to_arrays, to_images, to_masks  # noqa: E402
from stableviton_core.images import MULTIPLE, make_image_grid, write_image  # noqa: E402
from stableviton_core.inference.encoding import encode_samples  # noqa: E402
from stableviton_core.inference.sampling import draw_noise, sample_tryon  # noqa: E402
from stableviton_core.model.pretrained import load_model  # noqa: E402
from stableviton_core.model.vae import decode_latents  # noqa: E402
from stableviton_core.synthetic.draw_garment import Garment, generate_garment  # noqa: E402
from stableviton_core.synthetic.draw_person import Person, generate_person  # noqa: E402
from stableviton_core.synthetic.renderer import SyntheticSample, render_sample  # noqa: E402
from stableviton_core.synthetic.write_dataset import TEST_SEED_OFFSET  # noqa: E402

STEPS = 20
LETTER = (slice(0.30, 0.56), slice(0.36, 0.64))  # of the person's image, where letters lie


@dataclass(frozen=True, eq=False)
class PairOfLooks:
    """A synthetic person in the own garment (worn) and in the one to try on (target)."""

    person: Person
    garment: Garment
    worn: SyntheticSample
    target: SyntheticSample


@dataclass(frozen=True, eq=False)
class Measured:
    """Of one try-on: image H x W x 3 uint8, its field, and the attention of each block."""

    image: np.ndarray
    field: CorrespondenceField
    summaries: list[AttentionSummary]


def draw_pairs(count: int, height: int) -> list[PairOfLooks]:
    """The persons and garments of `generate_samples` with the benchmarks' seed."""
    rng = np.random.default_rng(TEST_SEED_OFFSET + 1)
    pairs = []
    for _ in range(count):
        person = generate_person(rng)
        worn, garment = generate_garment(rng), generate_garment(rng)
        looks = (render_sample(person, g, height) for g in (worn, garment))
        pairs.append(PairOfLooks(person, garment, *looks))
    return pairs


def dress(
    checkpoint: Path, pairs: list[PairOfLooks], seed: int, blocks: list[int] | None
) -> list[Measured]:
    """Try-ons of all pairs with one seed, and their correspondence by the attention of some blocks
    (all: None)."""
    model, autoencoder, _ = load_model(checkpoint)
    model.eval()
    measured = []
    for number, group in enumerate(tqdm(chunk(pairs), desc=f"{checkpoint.stem}, seed {seed}")):
        samples = [replace(pair.worn, garment=pair.target.garment) for pair in group]
        batch = encode_samples(autoencoder, model, samples)
        names = [f"{number}/{item}" for item in range(len(group))]
        noise = draw_noise(names, batch.person.shape[1:], seed)
        latents = sample_tryon(model, batch, noise, steps=STEPS, start="noise")
        summaries = read_result_attention(model, batch, latents)
        for item, image in enumerate(decode_latents(autoencoder, latents)):
            attention = [select(summary, item) for summary in summaries]
            used = attention if blocks is None else [attention[block] for block in blocks]
            field = fit(group[item], image, used)
            measured.append(Measured(image, field, attention))
    return measured


def select(summary: AttentionSummary, item: int) -> AttentionSummary:
    values = (summary.garment, summary.peak, summary.person)
    return AttentionSummary(summary.grid, *(value[item : item + 1] for value in values))


def report_errors(name: str, pairs: list[PairOfLooks], measured: list[Measured]) -> None:
    height = len(pairs[0].worn.image)
    errors = defaultdict(list)
    for pair, result in zip(pairs, measured, strict=True):
        truth = torch.from_numpy(pair.target.garment_coordinates)
        for block, summary in enumerate(result.summaries):
            rows, columns = summary.grid
            row = f"block {block} ({rows} x {columns})"
            positions = locate_tokens(summary.grid)
            errors[f"{row}, raw"].append(find_errors(summary.garment[0], positions, truth))
            field = fit(pair, result.image, [summary])
            errors[f"{row}, fitted"].append(find_field_errors(field, truth))
        errors["all blocks, fitted"].append(find_field_errors(result.field, truth))
    print(f"\n{name}: error of the garment coordinate over {len(pairs)} unseen pairs")
    print("| | median, tokens | 90 %, tokens | median, pixels | 90 %, pixels |")
    print("|---|---|---|---|---|")
    for row, values in errors.items():
        pixels = torch.cat(values) * height
        median, most = (float(np.quantile(pixels.numpy(), q)) for q in (0.5, 0.9))
        tokens = f"{median / MULTIPLE:.2f} | {most / MULTIPLE:.2f}"
        print(f"| {row} | {tokens} | {median:.1f} | {most:.1f} |", flush=True)


def find_field_errors(field: CorrespondenceField, truth: Tensor) -> Tensor:
    coordinates = field.coordinates[0].flatten(0, 1)
    return find_errors(coordinates, locate_tokens(field.size), truth)


def find_errors(coordinates: Tensor, positions: Tensor, truth: Tensor) -> Tensor:
    """The distances from the true coordinates at those positions (x, y) in 0..1, n x 2, that show
    the garment, in units of the image's height. truth: H x W x 3 uint8, as in `Sample`."""
    height, width = truth.shape[:2]
    column, row = (positions * torch.tensor([width, height])).long().unbind(-1)
    true = truth[row, column]
    difference = (coordinates - true[:, :2] / 255) * torch.tensor([width / height, 1.0])
    return difference.norm(dim=-1)[true[:, 2] > 0]


def fit(
    pair: PairOfLooks, image: np.ndarray, summaries: list[AttentionSummary]
) -> CorrespondenceField:
    return fit_sample(summaries, 0, pair.worn, image, pair.target.garment_mask > 127)


def report_details(
    pairs: list[PairOfLooks], measured: list[Measured], options: DetailOptions
) -> list[np.ndarray]:
    """Returns the images with details."""
    images = [result.image for result in measured]
    detailed = [carry(pair, result, options) for pair, result in zip(pairs, measured, strict=True)]
    truth = np.stack([pair.target.image for pair in pairs])
    worn = np.stack([pair.worn.image for pair in pairs])
    masks = np.stack([pair.target.mask for pair in pairs])
    regions = np.stack([pair.target.warped_mask for pair in pairs])
    lettered = sum(pair.garment.pattern == "letter" for pair in pairs)
    print(
        f"\n| | SSIM inside the mask | right garment | letters, of {lettered} |\n|---|---|---|---|"
    )
    for name, made in (("as generated", images), ("with details", detailed)):
        stacked = np.stack(made)
        ssim = average_inside(compute_ssim_maps(stacked, truth), masks)
        right = has_right_garment(stacked, worn, truth, regions).mean()
        legible = count_letters(pairs, made)
        print(f"| {name} | {ssim:.3f} | {right:.1%} | {legible} |", flush=True)
    return detailed


def carry(pair: PairOfLooks, result: Measured, options: DetailOptions) -> np.ndarray:
    return to_arrays(carry_details(*prepare(pair, result), options))[0]


def prepare(pair: PairOfLooks, result: Measured) -> tuple:
    """What `carry_details` and `score_tryons` take."""
    garment = to_images([pair.target.garment]), to_masks([pair.target.garment_mask > 127])
    return to_images([result.image]), *garment, result.field, to_masks([pair.target.mask > 0])


def count_letters(pairs: list[PairOfLooks], images: list[np.ndarray]) -> int:
    """Lettered garments of which the right letter is the one that the image shows best."""
    count = 0
    for pair, image in zip(pairs, images, strict=True):
        if pair.garment.pattern == "letter":
            matches = {
                letter: correlate(image, render_letter(pair, letter))
                for letter in string.ascii_uppercase
            }
            count += max(matches, key=matches.__getitem__) == pair.garment.motif
    return count


def render_letter(pair: PairOfLooks, letter: str) -> np.ndarray:
    garment = replace(pair.garment, motif=letter)
    return render_sample(pair.person, garment, len(pair.target.image)).image


def correlate(image: np.ndarray, other: np.ndarray) -> float:
    height, width = image.shape[:2]
    rows, columns = (
        slice(int(part.start * side), int(part.stop * side))
        for part, side in zip(LETTER, (height, width), strict=True)
    )
    a, b = (x[rows, columns].mean(axis=-1).ravel() for x in (image, other))
    return float(np.corrcoef(a, b)[0, 1])


def report_score(pairs: list[PairOfLooks], by_seed: list[list[Measured]]) -> None:
    truth = np.stack([pair.target.image for pair in pairs])
    inside = [pair.target.mask == 255 for pair in pairs]
    ssims, scores, parts = [], [], defaultdict(list)
    for measured in by_seed:
        maps = compute_ssim_maps(np.stack([result.image for result in measured]), truth).numpy()
        ssims.append([m[i].mean() for m, i in zip(maps, inside, strict=True)])
        row = []
        for pair, result in zip(pairs, measured, strict=True):
            (score,) = score_tryons(*prepare(pair, result))
            row.append(score.total)
            for part, value in asdict(score).items():
                parts[part].append(value)
        scores.append(row)
    ssim, score = np.array(ssims), np.array(scores)
    print(f"\nscore: Spearman correlation with SSIM over {ssim.size} results: ", end="")
    print(f"{spearmanr(score.ravel(), ssim.ravel()).statistic:.2f}; ", end="")
    print(", ".join(f"{k} {spearmanr(v, ssim.ravel()).statistic:.2f}" for k, v in parts.items()))
    by_score = np.take_along_axis(ssim, score.argmax(axis=0)[None], axis=0).mean()
    mean, by_truth = ssim.mean(), ssim.max(axis=0).mean()
    print(
        f"best of {len(ssim)}: mean SSIM {mean:.3f}, by score {by_score:.3f}, by truth "
        f"{by_truth:.3f}: {(by_score - mean) / max(by_truth - mean, 1e-9):.0%} of the gain"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ROOT / "demo" / "stableviton-demo.safetensors"
    parser.add_argument("checkpoints", type=Path, nargs="*", default=[default])
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--blocks", type=int, nargs="+", help="used for the field; all by default")
    parser.add_argument("--coarsest", type=float, default=DetailOptions.coarsest)
    parser.add_argument("--errors-only", action="store_true")
    parser.add_argument("--image", type=Path, help="of the first pairs")
    arguments = parser.parse_args()
    pairs = draw_pairs(arguments.pairs, arguments.height)
    for index, checkpoint in enumerate(arguments.checkpoints):
        measured = dress(checkpoint, pairs, 0, arguments.blocks)
        report_errors(checkpoint.name, pairs, measured)
        if index or arguments.errors_only:
            continue
        detailed = report_details(pairs, measured, DetailOptions(coarsest=arguments.coarsest))
        if arguments.image:
            draw(pairs[:8], measured[:8], detailed[:8], arguments.image)
        others = [
            dress(checkpoint, pairs, seed, arguments.blocks) for seed in range(1, arguments.seeds)
        ]
        report_score(pairs, [measured, *others])


def draw(
    pairs: list[PairOfLooks], measured: list[Measured], detailed: list[np.ndarray], file: Path
) -> None:
    """Garment, person, result, with details, truth, garment and person coloured by position."""
    fields = []
    for pair, result in zip(pairs, measured, strict=True):
        tryon, garment, garment_mask, field, _ = prepare(pair, result)
        fields += to_arrays(draw_side_by_side(garment, garment_mask, tryon, field))
    write_image(
        file,
        make_image_grid(
            [pair.target.garment for pair in pairs],
            [pair.worn.image for pair in pairs],
            [result.image for result in measured],
            detailed,
            [pair.target.image for pair in pairs],
            fields,
        ),
    )


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
