"""Writes a data set of synthetic samples in the VITON-HD folder layout."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..errors import StableVITONError
from ..images import write_image
from .draw_garment import PATCHWORK, PATTERNS, generate_garment
from .draw_person import generate_person
from .renderer import SyntheticSample, render_sample

TEST_SEED_OFFSET = 1_000_000  # added to the seed for persons of the test split


def generate_samples(
    count: int, garments: int, height: int, seed: int, patterns: Sequence[str] = PATTERNS
) -> Iterator[list[SyntheticSample]]:
    """For each of `count` persons, samples in `garments` garments of `patterns`, as in
    `generate_garment`."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        person = generate_person(rng)
        outfits = [generate_garment(rng, patterns) for _ in range(garments)]
        yield [render_sample(person, garment, height) for garment in outfits]


def write_dataset(
    output: Path,
    count: int,
    test_count: int,
    garments: int,
    height: int,
    seed: int,
    patterns: Sequence[str] = PATTERNS,
) -> None:
    """Write a `train` split of `count` persons in `garments` garments of `patterns` each, and a
    `test` split of `test_count` other persons in two garments each.

    `train_pairs.txt` pairs every image with the garment in it, `test_pairs.txt` with the other
    garment of the person: the ground truth is the image named as that garment. StableVITONError
    where the folder is not empty, the height is no multiple of 32 (which makes width and height
    multiples of 8), or a pattern is unknown.
    """
    unknown = set(patterns) - {*PATTERNS, PATCHWORK}
    if unknown:
        known = ", ".join((*PATTERNS, PATCHWORK))
        raise StableVITONError(f"patterns are of {known}; got {', '.join(sorted(unknown))}")
    if output.exists() and any(output.iterdir()):
        raise StableVITONError(f"{output} is not empty. Name a new folder.")
    if height % 32:
        raise StableVITONError(
            f"the height must be a multiple of 32 (the width is 3/4), got {height}"
        )
    people = generate_samples(count, garments, height, seed, patterns)
    names = write_split(output / "train", people, count)
    write_pairs(output / "train_pairs.txt", [(name, name) for person in names for name in person])
    people = generate_samples(test_count, 2, height, seed + TEST_SEED_OFFSET)
    names = write_split(output / "test", people, test_count)
    write_pairs(output / "test_pairs.txt", [(first, second) for first, second in names])


def write_split(
    folder: Path, people: Iterable[list[SyntheticSample]], count: int
) -> list[list[str]]:
    """Returns the file names of each person's samples."""
    names = []
    for index, samples in enumerate(tqdm(people, f"rendering {folder.name}", count, mininterval=1)):
        names.append([f"{index:05d}_{garment:02d}.png" for garment in range(len(samples))])
        for name, sample in zip(names[-1], samples, strict=True):
            _write_sample(folder, name, sample)
    return names


def _write_sample(folder: Path, name: str, sample: SyntheticSample) -> None:
    images = {
        f"image/{name}": sample.image,
        f"image-densepose/{name}": sample.densepose,
        f"agnostic-v3.2/{name}": sample.agnostic,
        f"agnostic-mask/{Path(name).stem}_mask.png": sample.mask,
        f"cloth/{name}": sample.garment,
        f"cloth-mask/{name}": sample.garment_mask,
        f"gt_cloth_warped_mask/{name}": sample.warped_mask,
        f"gt_cloth_coordinates/{name}": sample.garment_coordinates,
    }
    for path, image in images.items():
        write_image(folder / path, image)


def write_pairs(file: Path, pairs: Iterable[tuple[str, str]]) -> None:
    file.write_text("".join(f"{person} {garment}\n" for person, garment in pairs), encoding="utf-8")
