"""Pairs of person and garment in the VITON-HD folder layout, and their images."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np

from ..errors import StableVITONError
from ..images import IMAGE_EXTENSIONS, check_size, read_image, read_mask


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


@dataclass(frozen=True)
class Sample:
    """The images of a pair: H x W x 3 uint8 RGB; masks H x W uint8.

    mask: 255 = generate, 0 = keep, soft at the edges of a resized one. warped_mask: 255 = the
    garment on the person, else 0. garment_coordinates: for
    each of these pixels its column and row on the garment image, both scaled to 0..255, in red and
    green; blue is 255 where they are known, else 0. The last two are None where unknown.
    """

    image: np.ndarray
    agnostic: np.ndarray
    mask: np.ndarray
    densepose: np.ndarray
    garment: np.ndarray
    warped_mask: np.ndarray | None = None
    garment_coordinates: np.ndarray | None = None


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


def load_sample(pair: Pair, height: int, width: int) -> Sample:
    """The images of a pair at one size, resized as in the released data path: linearly, masks after
    they were binarised at the size of their file. StableVITONError where one cannot be read."""
    check_size("training size", height, width)

    def load(path: Path) -> np.ndarray:
        return _resize(read_image(path), height, width)

    def load_labels(path: Path | None, read: Callable[[Path], np.ndarray]) -> np.ndarray | None:
        return _resize(read(path), height, width, cv2.INTER_NEAREST) if path else None

    return Sample(
        image=load(pair.image),
        agnostic=load(pair.agnostic),
        mask=_resize(read_mask(pair.mask), height, width),
        densepose=load(pair.densepose),
        garment=load(pair.cloth),
        warped_mask=load_labels(pair.warped_mask, read_mask),
        garment_coordinates=load_labels(pair.garment_coordinates, read_image),
    )


def load_target_image(pair: Pair, height: int, width: int) -> np.ndarray | None:
    """Ground truth of a pair, H x W x 3 uint8: the image of the person who wears its garment, which
    has the garment's name. None where there is no such image."""
    garment = Path(pair.garment)
    file = find_file(pair.image.parent.parent, ("image",), garment.stem, garment.suffix)
    return _resize(read_image(file), height, width) if file.is_file() else None


def _resize(
    image: np.ndarray, height: int, width: int, interpolation: int = cv2.INTER_LINEAR
) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=interpolation)
