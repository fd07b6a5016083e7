"""Pairs of person and garment in the VITON-HD folder layout, and their pictures."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import StableVITONError
from ..images import IMAGE_EXTENSIONS, MULTIPLE

CHANGE = 128  # from this value on a mask says: generate


@dataclass(frozen=True)
class Pair:
    """A line of a pair file: names, and the files that belong to them. A file that is missing is
    the path where it was looked for first. warped: the worn garment's mask, and
    garment_coordinates: where on the garment's picture its pixels lie; both of training data."""

    person: str
    garment: str
    image: Path
    agnostic: Path
    mask: Path
    densepose: Path
    cloth: Path
    warped: Path | None
    garment_coordinates: Path | None

    @property
    def name(self) -> str:
        return f"{Path(self.person).stem}+{Path(self.garment).stem}"

    def files(self) -> Iterator[tuple[str, Path]]:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Path):
                yield field.name, value


@dataclass(frozen=True)
class Sample:
    """The pictures of a pair: H x W x 3 uint8 RGB, masks H x W uint8, 0 or 255.

    mask: 255 = generate. warped: 255 = the worn garment. garment_coordinates: where on the garment's picture its
    pixels lie, column and row from 0 to 255 in red and green, where blue is 255. Both None where
    the data set has none.
    """

    image: np.ndarray
    agnostic: np.ndarray
    mask: np.ndarray
    densepose: np.ndarray
    garment: np.ndarray
    warped: np.ndarray | None = None
    garment_coordinates: np.ndarray | None = None


def read_pairs(data: Path, split: str, paired: bool, pair_file: str | None = None) -> list[Pair]:
    """The pairs of `train` or `test`. paired: every person with the own garment, whatever the
    file's second column says. StableVITONError where the file is missing or not a pair file."""
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
        if not line.strip():
            continue
        names = line.split()
        if len(names) != 2:
            raise StableVITONError(
                f"{file}, line {number}: expected 'person.jpg cloth.jpg', got {line!r}"
            )
        pairs.append(_pair(folder, names[0], names[0] if paired else names[1]))
    if not pairs:
        raise StableVITONError(f"{file} names no pairs.")
    return pairs


def _pair(folder: Path, person: str, garment: str) -> Pair:
    stem = Path(person).stem
    warped = find(folder, ("gt_cloth_warped_mask",), stem, Path(person).suffix)
    garment_coordinates = find(folder, ("gt_cloth_coordinates",), stem, ".png")
    return Pair(
        person=person,
        garment=garment,
        image=find(folder, ("image",), stem, Path(person).suffix),
        agnostic=find(folder, ("agnostic-v3.2", "agnostic"), stem, Path(person).suffix),
        mask=_mask(folder, stem),
        densepose=find(folder, ("image-densepose",), stem, Path(person).suffix),
        cloth=find(folder, ("cloth",), Path(garment).stem, Path(garment).suffix),
        warped=warped if warped.is_file() else None,
        garment_coordinates=garment_coordinates if garment_coordinates.is_file() else None,
    )


def _mask(folder: Path, stem: str) -> Path:
    """VITON-HD's name, or the person's where ComfyUI has saved it."""
    spellings = ("agnostic-mask", "agnostic_mask")
    plain = find(folder, spellings, stem, ".png")
    return plain if plain.is_file() else find(folder, spellings, stem + "_mask", ".png")


def find(folder: Path, spellings: tuple[str, ...], stem: str, suffix: str) -> Path:
    """The file of a name in the first folder that has it, whatever type of image it is."""
    for spelling in spellings:
        for ending in (suffix, *IMAGE_EXTENSIONS):
            path = folder / spelling / (stem + ending)
            if path.is_file():
                return path
    return folder / spellings[0] / (stem + suffix)


def load(pair: Pair, height: int, width: int) -> Sample:
    """The pictures of a pair at one size. StableVITONError where one cannot be read."""
    if height % MULTIPLE or width % MULTIPLE:
        raise StableVITONError(f"sizes are multiples of {MULTIPLE}, got {width} x {height}")
    return Sample(
        image=_sized(read_image(pair.image), height, width),
        agnostic=_sized(read_image(pair.agnostic), height, width),
        mask=_sized_mask(read_mask(pair.mask), height, width),
        densepose=_sized(read_image(pair.densepose), height, width, cv2.INTER_NEAREST),
        garment=_sized(read_image(pair.cloth), height, width),
        warped=None if pair.warped is None else _sized_mask(read_mask(pair.warped), height, width),
        garment_coordinates=None
        if pair.garment_coordinates is None
        else _sized(read_image(pair.garment_coordinates), height, width, cv2.INTER_NEAREST),
    )


def target_image(pair: Pair, height: int, width: int) -> np.ndarray | None:
    """The picture of the person to whom a pair's garment belongs, for garments are named like
    them; None where nobody of that name is there."""
    name = Path(pair.garment)
    file = find(pair.image.parent.parent, ("image",), name.stem, name.suffix)
    return _sized(read_image(file), height, width) if file.is_file() else None


def read_image(path: Path) -> np.ndarray:
    """H x W x 3 uint8 RGB."""
    return _read(path, "RGB")


def read_mask(path: Path) -> np.ndarray:
    """H x W uint8, 0 or 255."""
    return np.where(_read(path, "L") >= CHANGE, 255, 0).astype(np.uint8)


def _read(path: Path, mode: str) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.array(image.convert(mode))  # a copy, which torch may write to
    except FileNotFoundError as error:
        raise StableVITONError(f"{path} is missing.") from error
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise StableVITONError(f"{path} cannot be read as an image ({error}).") from error


def _sized(
    image: np.ndarray, height: int, width: int, interpolation: int = cv2.INTER_AREA
) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=interpolation)


def _sized_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    return _sized(mask, height, width, cv2.INTER_NEAREST)
