"""A data set in VITON-HD's layout from photos of persons and of garments."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..errors import StableVITONError
from ..files import replace_atomically
from ..image_tensors import to_arrays, to_images
from ..images import fill_agnostic_region, list_images, read_image, write_image
from .agnostic import MaskOptions, PersonInputs, check_mask, make_agnostic_mask
from .analysis import analyze_person, find_person_box
from .crop import crop, find_crop_region
from .densepose import colour_parts
from .garment import place_on_white, segment_garment
from .labels import colour_labels

REPORT = "report.txt"


@dataclass(frozen=True)
class PreparationReport:
    """Names of the images written, and the photos left out with the reason."""

    persons: list[str]
    garments: list[str]
    unused: dict[str, str]


def prepare_dataset(
    persons: Path, garments: Path, output: Path, height: int, width: int
) -> PreparationReport:
    """Write `output/test` and `output/test_pairs.txt`: every person with the garment of the same
    name, where there is one, else with all garments.

    Items that an earlier run finished are skipped. Photos that cannot be used are left out, with
    the reason in report.txt. ImageError where a folder has no photos.
    """
    folder = output / "test"
    unused: dict[str, str] = {}
    used: dict[str, list[str]] = {}
    for kind, source, write in (
        ("image", persons, write_person),
        ("cloth", garments, write_garment),
    ):
        used[kind] = []
        for photo in tqdm(list_images(source), desc=source.name, mininterval=1):
            name = f"{photo.stem}.png"
            if not (folder / kind / name).is_file():
                try:
                    write(read_image(photo), folder, name, height, width)
                except StableVITONError as error:
                    unused[str(photo)] = str(error).removeprefix(f"{photo} ")
                    continue
            used[kind].append(name)
    _write_lines(output / "test_pairs.txt", _list_pairs(used["image"], used["cloth"]))
    _write_lines(output / REPORT, [f"{photo}: {reason}" for photo, reason in unused.items()])
    return PreparationReport(used["image"], used["cloth"], unused)


def write_person(photo: np.ndarray, folder: Path, name: str, height: int, width: int) -> None:
    """The person's images of a pair, cropped to the working size around the largest person. The
    image itself comes last: where it exists, the others do."""
    region = find_crop_region(to_images([photo]), height, width, find_person_box(photo))
    working, _ = crop(region, height, width)
    (image,) = to_arrays(working)
    person = analyze_person(image)
    options = MaskOptions()
    mask, _ = make_agnostic_mask(image, PersonInputs(person.pose, person.parse), options)
    check_mask(mask, options.category)
    levels = np.where(mask, 255, 0).astype(np.uint8)
    write_image(folder / "agnostic-v3.2" / name, fill_agnostic_region(image, mask))
    write_image(folder / "agnostic-mask" / f"{Path(name).stem}_mask.png", levels)
    write_image(folder / "image-densepose" / name, colour_parts(person.parts))
    write_image(folder / "image-parse-v3" / name, colour_labels(person.parse))
    write_image(folder / "image" / name, image)


def write_garment(photo: np.ndarray, folder: Path, name: str, height: int, width: int) -> None:
    """The garment's images of a pair, on white at the working size."""
    garment, mask = place_on_white(photo, segment_garment(photo), height, width)
    levels = np.where(mask > 0.5, 255, 0).astype(np.uint8)
    write_image(folder / "cloth-mask" / name, levels)
    write_image(folder / "cloth" / name, garment)


def _list_pairs(persons: Sequence[str], garments: Sequence[str]) -> list[str]:
    return [
        f"{person} {garment}"
        for person in persons
        for garment in ([person] if person in garments else garments)
    ]


def _write_lines(file: Path, lines: Sequence[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(file) as partial:
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
