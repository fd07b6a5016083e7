"""Which result shows which person in which garment, by the names of the files."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..dataset.pairs import read_pairs
from ..errors import StableVITONError
from ..files import make_safe_name
from ..images import IMAGE_EXTENSIONS, list_images

FOLDERS = {True: "pair", False: "unpair"}  # of `tryon` and of the released script, by paired
OTHER_IMAGES = {"contact-sheet.jpg"}  # that the batch client writes beside its results
# that the batch client adds to names that would be equal; of 8 digits in earlier versions
HASH = re.compile("-(?:[0-9a-f]{8}|[0-9a-f]{16})$")
SHOWN = 10  # names in an error


@dataclass(frozen=True)
class Reference:
    """The real images of a test split. images: file of a person's photo in the own garment, by the
    person's name. garments: the names of all garments, and the own one of each person."""

    images: Mapping[str, Path]
    garments: frozenset[str]
    own_garments: Mapping[str, str]


@dataclass(frozen=True)
class Result:
    """garment: None where the file is named by the person only."""

    file: Path
    person: str
    garment: str | None


def read_reference(folder: Path) -> Reference:
    """The images of a folder. As in VITON-HD a garment is named like the person who wears it."""
    images = map_stems(list_images(folder), folder)
    return Reference(images, frozenset(images), {name: name for name in images})


def read_test_split(data: Path, category: str | None) -> Reference:
    """The persons of a data set's paired test pairs, and the garments of the unpaired ones, too."""
    paired = read_pairs(data, "test", True, category=category)
    unpaired = read_pairs(data, "test", False, category=category)
    images = map_stems(list(dict.fromkeys(pair.image for pair in paired)), data)
    missing = [str(image) for image in images.values() if not image.is_file()]
    if missing:
        raise StableVITONError(f"{len(missing)} real images are missing: {_list(missing)}")
    own = {pair.image.stem: Path(pair.garment).stem for pair in paired}
    others = {Path(pair.garment).stem for pair in unpaired}
    return Reference(images, frozenset({*own.values(), *others}), own)


def list_results(folder: Path, paired: bool) -> list[Path]:
    """The result images of a folder, or of its folder pair or unpair."""
    inner = folder / FOLDERS[paired]
    if inner.is_dir():
        if any(path.suffix.lower() in IMAGE_EXTENSIONS for path in folder.iterdir()):
            raise StableVITONError(
                f"{folder} has images and a folder {inner.name}. Name the one to measure: {inner}, "
                "or move the images to a folder of their own."
            )
        folder = inner
    elif (folder / FOLDERS[not paired]).is_dir():
        advice = "leave out --unpaired" if not paired else "use --unpaired"
        raise StableVITONError(
            f"{folder} has {FOLDERS[not paired]} and no {inner.name}: {advice}, or make the "
            "results first."
        )
    files = [file for file in list_images(folder) if file.name not in OTHER_IMAGES]
    if not files:
        raise StableVITONError(f"{folder} has no results but {', '.join(sorted(OTHER_IMAGES))}.")
    return list(map_stems(files, folder).values())


def map_stems(files: Sequence[Path], folder: Path) -> dict[str, Path]:
    """Files by stem. StableVITONError where two have the same."""
    by_stem = {path.stem: path for path in files}
    if len(by_stem) < len(files):
        raise StableVITONError(f"{folder} has several images of one name, such as a.jpg and a.png.")
    return by_stem


def resolve_results(files: Sequence[Path], reference: Reference) -> list[Result]:
    """Results with the persons and garments of their names: PERSON_GARMENT of `tryon`,
    PERSON+GARMENT of the batch client, with or without its hash, or PERSON.

    Names are split where both parts are known, so that they may contain _ and +.
    StableVITONError lists the names that are unknown or can be read in two ways.
    """
    persons = _map_safe_names(reference.images)
    garments = _map_safe_names(reference.garments)
    results: list[Result] = []
    unknown: list[str] = []
    ambiguous: list[str] = []
    for file in files:
        readings = set(_split(file.stem, persons, garments))
        if not readings and HASH.search(file.stem):
            readings = set(_split(HASH.sub("", file.stem), persons, garments))
        if len(readings) == 1:
            results.append(Result(file, *readings.pop()))
        else:
            (ambiguous if readings else unknown).append(file.name)
    problems = []
    if unknown:
        problems.append(
            f"{len(unknown)} of {len(files)} results have no known person and garment in their "
            f"name: {_list(unknown)}. Known are {len(reference.images)} persons, such as "
            f"{next(iter(reference.images))}."
        )
    if ambiguous:
        problems.append(
            f"{len(ambiguous)} of {len(files)} results can be read as several pairs: "
            f"{_list(ambiguous)}. Rename them."
        )
    if problems:
        raise StableVITONError("\n".join(problems))
    return results


def is_paired(result: Result, reference: Reference) -> bool:
    """Whether the person wears the own garment, so that there is a real image of it."""
    return result.garment in (None, reference.own_garments[result.person])


def match_references(results: Sequence[Result], reference: Reference) -> list[tuple[Result, Path]]:
    """Results with their real images. StableVITONError where one shows another garment than the
    person's own."""
    unpaired = [result.file.name for result in results if not is_paired(result, reference)]
    if unpaired:
        raise StableVITONError(
            f"{len(unpaired)} of {len(results)} results show a person in another garment, of which "
            f"there is no real image: {_list(unpaired)}. SSIM and LPIPS need results in the own "
            "garment: move these to a folder of their own, and measure them with --unpaired."
        )
    return [(result, reference.images[result.person]) for result in results]


def _map_safe_names(names: Mapping[str, Path] | frozenset[str]) -> dict[str, list[str]]:
    """Names by their spelling in files of the batch client, and by their own."""
    spellings: dict[str, list[str]] = {}
    for name in names:
        for spelling in {name, make_safe_name(name)}:
            spellings.setdefault(spelling, []).append(name)
    return spellings


def _split(
    name: str, persons: Mapping[str, list[str]], garments: Mapping[str, list[str]]
) -> Iterator[tuple[str, str | None]]:
    """Every (person, garment) that a name can mean."""
    for person in persons.get(name, ()):
        yield person, None
    for separator in re.finditer("[_+]", name):
        for person in persons.get(name[: separator.start()], ()):
            for garment in garments.get(name[separator.end() :], ()):
                yield person, garment


def _list(names: Sequence[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest
