"""Pairs of person and garment, in the folder layouts of VITON-HD and of DressCode."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import StableVITONError
from ..images import IMAGE_EXTENSIONS

VITON_HD_CATEGORY = "upper"
DRESSCODE_FOLDERS = {"upper": "upper_body", "lower": "lower_body", "dresses": "dresses"}


@dataclass(frozen=True)
class Pair:
    """A line of a pair file, and the files that belong to it.

    A missing file is given as the path where it is expected. warped_mask and garment_coordinates
    (see `Sample`) are None where the data set has none. agnostic and mask are None where they are
    made of keypoints and labels (see `dresscode`), which are None elsewhere. category: a key of
    DRESSCODE_FOLDERS.
    """

    person: str
    garment: str
    image: Path
    agnostic: Path | None
    mask: Path | None
    densepose: Path
    cloth: Path
    warped_mask: Path | None
    garment_coordinates: Path | None
    category: str = VITON_HD_CATEGORY
    keypoints: Path | None = None
    labels: Path | None = None

    @property
    def name(self) -> str:
        return f"{Path(self.person).stem}+{Path(self.garment).stem}"

    def files(self) -> Iterator[tuple[str, Path]]:
        """(field name, path) of every file."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Path):
                yield field.name, value


def format_result_name(pair: Pair, ending: str) -> str:
    """The file name of a result, as the released inference script names it. ending: with a dot."""
    return f"{Path(pair.person).stem}_{Path(pair.garment).stem}{ending}"


def read_pairs(
    data: Path, split: str, paired: bool, pair_file: str | None = None, category: str | None = None
) -> list[Pair]:
    """The pairs of the split `train` or `test`.

    paired: every person with the garment that the person wears; the file's second column is
    ignored. pair_file: instead of the layout's own, in `data` or in each category's folder.
    category: of DRESSCODE_FOLDERS, all by default. StableVITONError where the layout is another
    one, a file is missing or malformed.
    """
    if category is not None and category not in DRESSCODE_FOLDERS:
        raise StableVITONError(
            f"category is one of {', '.join(DRESSCODE_FOLDERS)}, got {category!r}"
        )
    if any((data / folder / "images").is_dir() for folder in DRESSCODE_FOLDERS.values()):
        return _read_dresscode_pairs(data, split, paired, pair_file, category)
    if category not in (None, VITON_HD_CATEGORY):
        raise StableVITONError(
            f"{data} has VITON-HD's layout, which has upper garments only, not {category!r}."
        )
    folder = data / split
    lines = _read_lines(data / (pair_file or f"{split}_pairs.txt"))
    if not folder.is_dir():
        raise StableVITONError(
            f"{folder} is not a folder. Expected the VITON-HD layout in {data} (or DressCode's: "
            f"{', '.join(DRESSCODE_FOLDERS.values())})."
        )
    return [
        _find_pair(folder, person, person if paired else garment, VITON_HD_CATEGORY)
        for person, garment in lines
    ]


def _read_dresscode_pairs(
    data: Path, split: str, paired: bool, pair_file: str | None, category: str | None
) -> list[Pair]:
    """Each category's folder has train_pairs.txt, test_pairs_paired.txt, test_pairs_unpaired.txt.
    Person 000001_0.jpg wears garment 000001_1.jpg."""
    kind = "paired" if paired else "unpaired"
    default = "train_pairs.txt" if split == "train" else f"test_pairs_{kind}.txt"
    pairs = []
    for name, folder in DRESSCODE_FOLDERS.items():
        is_present = (data / folder).is_dir()
        if category != name and (category is not None or not is_present):
            continue
        for person, garment in _read_lines(data / folder / (pair_file or default)):
            garment = _replace_number(person, 1) if paired else garment
            pairs.append(_find_pair(data / folder, person, garment, name))
    return pairs


def _read_lines(file: Path) -> list[tuple[str, str]]:
    """Names of persons and garments. DressCode's lines may have a third column, the category."""
    if not file.is_file():
        raise StableVITONError(
            f"{file} is not there. It names the pairs: person.jpg cloth.jpg a line."
        )
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise StableVITONError(
            f"{file} is not a text file in UTF-8 ({error}). Save it as UTF-8."
        ) from error
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        names = line.split()
        if len(names) == 3 and names[2].isdecimal():
            names.pop()
        if len(names) not in (0, 2):
            raise StableVITONError(
                f"{file}, line {number}: expected 'person.jpg cloth.jpg', got {line!r}"
            )
        if names:
            lines.append((names[0], names[1]))
    if not lines:
        raise StableVITONError(f"{file} names no pairs.")
    return lines


def _replace_number(name: str, number: int, suffix: str | None = None) -> str:
    """DressCode's name of another file of an item: 000001_0.jpg -> 000001_<number>.jpg."""
    path = Path(name)
    return f"{path.stem.rpartition('_')[0]}_{number}{suffix or path.suffix}"


def _find_pair(folder: Path, person: str, garment: str, category: str) -> Pair:
    """The files of a pair in a split of VITON-HD, or in a category of DressCode, which may have
    VITON-HD's folders, too."""
    is_dresscode = (folder / "images").is_dir()
    stem, suffix = Path(person).stem, Path(person).suffix
    images, garments = ("images", "images") if is_dresscode else ("image", "cloth")
    mask: Path | None = _find_mask(folder, stem)
    agnostic: Path | None = find_file(folder, ("agnostic-v3.2", "agnostic"), stem, suffix)
    densepose = find_file(folder, ("image-densepose",), stem, suffix)
    keypoints, labels = None, None
    if is_dresscode:
        stored = [path for path in (mask, agnostic) if path and path.is_file()]
        if len(stored) < 2:
            mask = agnostic = None
            keypoints = folder / "keypoints" / _replace_number(person, 2, ".json")
            labels = folder / "label_maps" / _replace_number(person, 4, ".png")
        if not densepose.is_file():
            densepose = folder / "dense" / _replace_number(person, 5, ".png")
    warped_mask = find_file(folder, ("gt_cloth_warped_mask",), stem, suffix)
    garment_coordinates = find_file(folder, ("gt_cloth_coordinates",), stem, ".png")
    return Pair(
        person=person,
        garment=garment,
        image=find_file(folder, (images,), stem, suffix),
        agnostic=agnostic,
        mask=mask,
        densepose=densepose,
        cloth=find_file(folder, (garments,), Path(garment).stem, Path(garment).suffix),
        warped_mask=warped_mask if warped_mask.is_file() else None,
        garment_coordinates=garment_coordinates if garment_coordinates.is_file() else None,
        category=category,
        keypoints=keypoints,
        labels=labels,
    )


def _find_mask(folder: Path, stem: str) -> Path:
    """NAME.png as ComfyUI saves it, else NAME_mask.png as in VITON-HD."""
    spellings = ("agnostic-mask", "agnostic_mask")
    mask = find_file(folder, spellings, stem, ".png")
    return mask if mask.is_file() else find_file(folder, spellings, stem + "_mask", ".png")


def find_target(pair: Pair) -> Path | None:
    """The image of the person who wears the pair's garment: in VITON-HD it has the garment's name,
    in DressCode the number 0. None where there is none."""
    folder = pair.image.parent
    name = pair.garment if folder.name == "image" else _replace_number(pair.garment, 0)
    file = find_file(folder.parent, (folder.name,), Path(name).stem, Path(name).suffix)
    return file if file.is_file() else None


def find_file(folder: Path, spellings: tuple[str, ...], stem: str, suffix: str) -> Path:
    """The image `stem`, of any image type, its ending in small or capital letters, in the first
    subfolder that has it; else the path in the first spelling, with `suffix`."""
    endings = (suffix, *IMAGE_EXTENSIONS)
    for spelling in spellings:
        for ending in dict.fromkeys((*endings, *map(str.upper, endings), suffix.lower())):
            path = folder / spelling / (stem + ending)
            if path.is_file():
                return path
    return folder / spellings[0] / (stem + suffix)
