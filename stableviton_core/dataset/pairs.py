"""Pairs of person and garment in the VITON-HD folder layout."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import StableVITONError
from ..images import IMAGE_EXTENSIONS


@dataclass(frozen=True)
class Pair:
    """A line of a pair file, and the files that belong to it.

    A missing file is given as the path where it is expected. warped_mask and garment_coordinates
    (see `Sample`) are None where the data set has none.
    """

    person: str
    garment: str
    image: Path
    agnostic: Path
    mask: Path
    densepose: Path
    cloth: Path
    warped_mask: Path | None
    garment_coordinates: Path | None

    @property
    def name(self) -> str:
        return f"{Path(self.person).stem}+{Path(self.garment).stem}"

    def files(self) -> Iterator[tuple[str, Path]]:
        """(field name, path) of every file."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Path):
                yield field.name, value


def read_pairs(data: Path, split: str, paired: bool, pair_file: str | None = None) -> list[Pair]:
    """The pairs of the split `train` or `test`.

    paired: every person with the garment that the person wears; the file's second column is
    ignored. StableVITONError where the file is missing or malformed.
    """
    file = data / (pair_file or f"{split}_pairs.txt")
    folder = data / split
    if not file.is_file():
        raise StableVITONError(
            f"{file} is not there. It names the pairs: person.jpg cloth.jpg a line."
        )
    if not folder.is_dir():
        raise StableVITONError(f"{folder} is not a folder. Expected the VITON-HD layout in {data}.")
    pairs = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        names = line.split()
        if not names:
            continue
        if len(names) != 2:
            raise StableVITONError(
                f"{file}, line {number}: expected 'person.jpg cloth.jpg', got {line!r}"
            )
        pairs.append(_find_pair(folder, names[0], names[0] if paired else names[1]))
    if not pairs:
        raise StableVITONError(f"{file} names no pairs.")
    return pairs


def _find_pair(folder: Path, person: str, garment: str) -> Pair:
    stem, suffix = Path(person).stem, Path(person).suffix
    warped_mask = find_file(folder, ("gt_cloth_warped_mask",), stem, suffix)
    garment_coordinates = find_file(folder, ("gt_cloth_coordinates",), stem, ".png")
    return Pair(
        person=person,
        garment=garment,
        image=find_file(folder, ("image",), stem, suffix),
        agnostic=find_file(folder, ("agnostic-v3.2", "agnostic"), stem, suffix),
        mask=_find_mask(folder, stem),
        densepose=find_file(folder, ("image-densepose",), stem, suffix),
        cloth=find_file(folder, ("cloth",), Path(garment).stem, Path(garment).suffix),
        warped_mask=warped_mask if warped_mask.is_file() else None,
        garment_coordinates=garment_coordinates if garment_coordinates.is_file() else None,
    )


def _find_mask(folder: Path, stem: str) -> Path:
    """NAME.png as ComfyUI saves it, else NAME_mask.png as in VITON-HD."""
    spellings = ("agnostic-mask", "agnostic_mask")
    mask = find_file(folder, spellings, stem, ".png")
    return mask if mask.is_file() else find_file(folder, spellings, stem + "_mask", ".png")


def find_file(folder: Path, spellings: tuple[str, ...], stem: str, suffix: str) -> Path:
    """The image `stem`, of any image type, in the first subfolder that has it; else the path in the
    first spelling, with `suffix`."""
    for spelling in spellings:
        for ending in (suffix, *IMAGE_EXTENSIONS):
            path = folder / spelling / (stem + ending)
            if path.is_file():
                return path
    return folder / spellings[0] / (stem + suffix)
