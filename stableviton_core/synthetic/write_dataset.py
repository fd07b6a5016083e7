"""Paper dolls as a data set in the VITON-HD folder layout."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from .. import synthetic
from ..errors import StableVITONError
from ..training.dataset import Sample
from . import PATTERNS

UNSEEN = 1_000_000  # added to the seed of test persons, whom no training sees


def random_samples(
    people: int, garments: int, height: int, seed: int, patterns: Sequence[str] = PATTERNS
) -> Iterator[list[synthetic.SyntheticSample]]:
    """Person by person, the same in `garments` different garments, of patterns as in
    `synthetic.random_garment`."""
    rng = np.random.default_rng(seed)
    for _ in range(people):
        person = synthetic.random_person(rng)
        worn = [synthetic.random_garment(rng, patterns) for _ in range(garments)]
        yield [synthetic.draw(person, garment, height) for garment in worn]


def write_dataset(
    output: Path,
    count: int,
    test_count: int,
    garments: int,
    height: int,
    seed: int,
    patterns: Sequence[str] = PATTERNS,
) -> None:
    """Write `train` with `count` persons in `garments` garments each, and `test` with `test_count`
    unseen persons in two. The training persons' garments are of `patterns`.

    `train_pairs.txt` has every doll with its own garment. `test_pairs.txt` asks every test person
    for the other garment; the true answer is the image of that garment's name. StableVITONError where
    the folder is not empty or the height no multiple of 32, for which width and height are
    multiples of 8, and where there is no such pattern.
    """
    unknown = set(patterns) - {*PATTERNS, synthetic.PATCHWORK}
    if unknown:
        known = ", ".join((*PATTERNS, synthetic.PATCHWORK))
        raise StableVITONError(f"patterns are of {known}; got {', '.join(sorted(unknown))}")
    if output.exists() and any(output.iterdir()):
        raise StableVITONError(f"{output} is not empty. Name a new folder.")
    if height % 32:
        raise StableVITONError(
            f"the height must be a multiple of 32 (the width is 3/4), got {height}"
        )
    drawn = random_samples(count, garments, height, seed, patterns)
    names = _write(output / "train", drawn, count)
    _write_pairs(output / "train_pairs.txt", [(name, name) for own in names for name in own])
    names = _write(
        output / "test", random_samples(test_count, 2, height, seed + UNSEEN), test_count
    )
    _write_pairs(output / "test_pairs.txt", [(worn, asked) for worn, asked in names])


def _write(
    folder: Path, drawn: Iterator[list[synthetic.SyntheticSample]], people: int
) -> list[list[str]]:
    names = []
    for index, own in enumerate(tqdm(drawn, f"drawing {folder.name}", people, mininterval=1)):
        names.append([f"{index:05d}_{garment:02d}.png" for garment in range(len(own))])
        for name, doll in zip(names[-1], own, strict=True):
            _write_doll(folder, name, doll)
    return names


def _write_doll(folder: Path, name: str, doll: synthetic.SyntheticSample) -> None:
    pictures = {
        f"image/{name}": doll.image,
        f"image-densepose/{name}": doll.densepose,
        f"agnostic-v3.2/{name}": doll.agnostic,
        f"agnostic-mask/{Path(name).stem}_mask.png": doll.mask,
        f"cloth/{name}": doll.garment,
        f"cloth-mask/{name}": doll.garment_mask,
        f"gt_cloth_warped_mask/{name}": doll.worn,
        f"gt_cloth_coordinates/{name}": doll.garment_coordinates,
    }
    for path, picture in pictures.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file)


def _write_pairs(file: Path, pairs: list[tuple[str, str]]) -> None:
    file.write_text("".join(f"{person} {garment}\n" for person, garment in pairs), encoding="utf-8")


def sample_of(doll: synthetic.SyntheticSample) -> Sample:
    return Sample(
        image=doll.image,
        agnostic=doll.agnostic,
        mask=doll.mask,
        densepose=doll.densepose,
        garment=doll.garment,
        warped_mask=doll.worn,
        garment_coordinates=doll.garment_coordinates,
    )
