"""What a batch is to make: pairs of pictures, and names for their results."""

import csv
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import StableVITONError
from ...images import list_images

ROLES = ("person", "garment", "mask", "densepose")  # what a pair may give; the first two it must
COLUMNS = (*ROLES, "seed")
LONGEST_NAME = 120  # characters of a result's name; file systems end at 255 bytes
SUFFIXES = {"mask": ("", "_mask"), "densepose": ("", "_densepose")}  # to the person's name


@dataclass(frozen=True)
class Job:
    """One result. name: of its file, without an ending; unlike any other job's."""

    name: str
    pictures: Mapping[str, Path]  # by role
    seed: int


def read_pairs(file: Path, seed: int) -> list[Job]:
    """The jobs of a CSV file with the columns person and garment, and mask, densepose and seed
    where wanted. Paths are relative to the file's folder. StableVITONError names a line that is wrong."""
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
    listed = []
    for number, row in enumerate(rows, start=2):
        pictures = {role: file.parent / row[role] for role in ROLES if row.get(role)}
        if None in row or not {"person", "garment"} <= pictures.keys():
            raise StableVITONError(f"{file}, line {number}: expected {', '.join(columns)}")
        try:
            listed.append((pictures, int(row.get("seed") or seed)))
        except ValueError as error:
            raise StableVITONError(f"{file}, line {number}: the seed is no whole number") from error
    if not listed:
        raise StableVITONError(f"{file} names no pairs.")
    return named(listed)


def product(persons: Path, garments: Path, others: Mapping[str, Path], seed: int) -> list[Job]:
    """Every person of a folder in every garment of another. others: folders of masks and DensePoses
    (by role), whose files are named as the person, or that with _mask or _densepose."""
    listed, clothes = [], list_images(garments)
    companions = {role: list_images(folder) for role, folder in others.items()}
    for person in list_images(persons):
        own = {role: _companion(person, found, role) for role, found in companions.items()}
        for garment in clothes:
            listed.append(({"person": person, "garment": garment} | own, seed))
    return named(listed)


def _companion(person: Path, pictures: Sequence[Path], role: str) -> Path:
    stems = [person.stem + suffix for suffix in SUFFIXES[role]]
    found = [path for path in pictures if path.stem in stems]
    if len(found) != 1:
        raise StableVITONError(
            f"expected one {role} for {person.name} in {pictures[0].parent}, named "
            f"{' or '.join(stems)}; found {len(found)}"
        )
    return found[0]


def named(listed: Iterable[tuple[Mapping[str, Path], int]]) -> list[Job]:
    """Jobs whose names are "person+garment", safe as file names anywhere, and unique: where two
    would be alike, a hash of their files' paths and seed tells them apart. StableVITONError where a pair
    is there twice."""
    listed = list(listed)
    full = [f"{own['person'].stem}+{own['garment'].stem}" for own, _ in listed]
    often = Counter(_safe(name).casefold() for name in full)
    jobs, known = [], set()
    for stems, (pictures, seed) in zip(full, listed, strict=True):
        told = "|".join(f"{role}={path}" for role, path in sorted(pictures.items()))
        whole = f"{told}|{seed}"
        if whole in known:
            raise StableVITONError(
                f"{pictures['person']} with {pictures['garment']} and seed {seed} is there twice."
            )
        known.add(whole)
        name = _safe(stems)
        if often[name.casefold()] > 1 or name != stems:
            name = f"{name}-{hashlib.sha256(os.fsencode(whole)).hexdigest()[:8]}"
        jobs.append(Job(name, pictures, seed))
    return jobs


def _safe(name: str) -> str:
    """Letters and digits of any script, and . + - _; of a length that every file system takes."""
    kept = re.sub(r"[^\w.+-]", "_", name).lstrip(".") or "_"
    while len(os.fsencode(kept)) > LONGEST_NAME:
        kept = kept[: len(kept) * 9 // 10]
    return kept
