"""The jobs of a batch: pairs of input images, and the names of their results."""

import csv
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import StableVITONError
from ...files import hash_bytes, make_safe_name
from ...images import list_images

ROLES = ("person", "garment", "mask", "densepose")  # of input images; the first two are required
COLUMNS = (*ROLES, "seed")
MAX_SEED = 2**64 - 1
HASH_DIGITS = 16  # of a result's name, where it needs a hash
NAME_SUFFIXES = {"mask": ("", "_mask"), "densepose": ("", "_densepose")}  # after the person's name


@dataclass(frozen=True)
class Job:
    """One result. name: unique, the stem of its file. images: input files by role. candidates: how
    many seeds are tried, of which the one with the best score is kept."""

    name: str
    images: Mapping[str, Path]
    seed: int
    candidates: int = 1

    @property
    def seeds(self) -> range:
        return range(self.seed, self.seed + self.candidates)


def read_pairs(file: Path, seed: int) -> list[Job]:
    """The jobs of a CSV file with the columns person and garment, and optionally mask, densepose
    and seed. Paths are relative to the file's folder; `seed` is used where a row has none.
    StableVITONError names the line that is wrong."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened)
            columns, rows = list(reader.fieldnames or []), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StableVITONError(f"{file} cannot be read as a list of pairs: {error}") from error
    unknown = [column for column in columns if column not in COLUMNS]
    if unknown or not {"person", "garment"} <= set(columns):
        raise StableVITONError(
            f"the first line of {file} names the columns, out of {', '.join(COLUMNS)}, with person "
            f"and garment among them; got {', '.join(map(repr, columns)) or 'an empty file'}"
        )
    pairs = []
    for number, row in enumerate(rows, start=2):
        images = {role: file.parent / row[role] for role in ROLES if row.get(role)}
        if None in row or not {"person", "garment"} <= images.keys():
            raise StableVITONError(f"{file}, line {number}: expected {', '.join(columns)}")
        try:
            pairs.append((images, int(row.get("seed") or seed)))
        except ValueError as error:
            raise StableVITONError(f"{file}, line {number}: the seed is no whole number") from error
    if not pairs:
        raise StableVITONError(f"{file} names no pairs.")
    return name_jobs(pairs)


def combine_folders(
    persons: Path, garments: Path, companions: Mapping[str, Path], seed: int
) -> list[Job]:
    """Every person of a folder in every garment of another. companions: folders of masks and
    DensePoses by role, whose files are named as the person, or that with _mask or _densepose."""
    pairs, garment_files = [], list_images(garments)
    companion_files = {role: list_images(folder) for role, folder in companions.items()}
    for person in list_images(persons):
        images = {"person": person}
        for role, files in companion_files.items():
            images[role] = _find_companion(person, files, role)
        pairs += [(images | {"garment": garment}, seed) for garment in garment_files]
    return name_jobs(pairs)


def _find_companion(person: Path, files: Sequence[Path], role: str) -> Path:
    stems = [person.stem + suffix for suffix in NAME_SUFFIXES[role]]
    matches = [path for path in files if path.stem in stems]
    if len(matches) != 1:
        raise StableVITONError(
            f"expected one {role} for {person.name} in {files[0].parent}, named "
            f"{' or '.join(stems)}; found {len(matches)}"
        )
    return matches[0]


def name_jobs(pairs: Iterable[tuple[Mapping[str, Path], int]]) -> list[Job]:
    """Jobs from (images by role, seed), named "person+garment".

    Names are unique and safe on every file system: a name that was changed for that, or that two
    jobs would share, gets a hash of the images' paths and the seed. StableVITONError where a pair
    is there twice, a seed is out of range, or two names are alike all the same.
    """
    pairs = list(pairs)
    for images, seed in pairs:
        if not 0 <= seed <= MAX_SEED:
            raise StableVITONError(
                f"the seed of {images['person']} with {images['garment']} is {seed}; seeds are 0 "
                f"to {MAX_SEED}."
            )
    stems = [f"{images['person'].stem}+{images['garment'].stem}" for images, _ in pairs]
    counts = Counter(make_safe_name(stem).casefold() for stem in stems)
    jobs, identities = [], set()
    for stem, (images, seed) in zip(stems, pairs, strict=True):
        paths = [f"{role}={path}" for role, path in sorted(images.items())]
        identity = "|".join([*paths, str(seed)])
        if identity in identities:
            raise StableVITONError(
                f"{images['person']} with {images['garment']} and seed {seed} is there twice."
            )
        identities.add(identity)
        name = make_safe_name(stem)
        if counts[name.casefold()] > 1 or name != stem:
            name = f"{name}-{hash_bytes(os.fsencode(identity))[:HASH_DIGITS]}"
        jobs.append(Job(name, images, seed))
    names = Counter(job.name.casefold() for job in jobs)
    alike = [job.name for job in jobs if names[job.name.casefold()] > 1]
    if alike:
        raise StableVITONError(
            f"{len(alike)} results would have the same name, such as {alike[0]}. Rename the images."
        )
    return jobs
