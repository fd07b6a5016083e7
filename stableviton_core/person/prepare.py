"""Photos of persons and garments into the VITON-HD layout."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from ..errors import ImageError, StableVITONError
from ..files import replace_atomically
from ..images import list_images
from .agnostic import fill_agnostic_region
from .analysis import analysed, box_of, chosen_body
from .crop import crop, fit
from .densepose import colour_parts
from .garment import flat_garment, garment_mask
from .labels import colour_labels
from .masking import Known, MaskOptions, agnostic_mask, check_mask

REPORT = "report.txt"


@dataclass(frozen=True)
class Prepared:
    """Photos that were used, and the others with the reason."""

    persons: list[str]
    garments: list[str]
    unused: dict[str, str]


def prepare(persons: Path, garments: Path, output: Path, height: int, width: int) -> Prepared:
    """Write `output/test` and `output/test_pairs.txt`: every person with the garment of the same
    name, where there is one, else with all garments.

    What an earlier run has finished is not made again. Photos that cannot be used are left out,
    with the reason in report.txt. ImageError where a folder has no photos.
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
                    write(read_photo(photo), folder, name, height, width)
                except StableVITONError as error:
                    unused[str(photo)] = str(error)
                    continue
            used[kind].append(name)
    _write_lines(output / "test_pairs.txt", _pairs(used["image"], used["cloth"]))
    _write_lines(output / REPORT, [f"{photo}: {reason}" for photo, reason in unused.items()])
    return Prepared(used["image"], used["cloth"], unused)


def read_photo(path: Path) -> np.ndarray:
    """H x W x 3 uint8 RGB, turned as its EXIF says; transparency on white."""
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # 16 bits of grey
                levels = np.asarray(image, np.float64) / 257
                image = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
            if image.has_transparency_data:
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image.convert("RGBA"))
            return np.array(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ImageError(f"it cannot be read as an image ({error})") from error


def write_person(photo: np.ndarray, folder: Path, name: str, height: int, width: int) -> None:
    """The person's pictures of a pair, at the working size around the largest person. The image
    comes last: it says that the others are there."""
    original = torch.from_numpy(photo)[None].float() / 255  # H W C -> 1 H W C
    frame = fit(original, height, width, person=box_of(chosen_body(photo)))
    working, _ = crop(frame, height, width)
    image = (working[0].numpy() * 255).round().astype(np.uint8)
    found = analysed(image)
    options = MaskOptions()
    mask, _ = agnostic_mask(image, Known(found.pose, found.parse), options)
    check_mask(mask, options.category)
    stem = Path(name).stem
    _save(folder / "agnostic-v3.2" / name, fill_agnostic_region(image, mask))
    _save(folder / "agnostic-mask" / f"{stem}_mask.png", np.where(mask, 255, 0).astype(np.uint8))
    _save(folder / "image-densepose" / name, colour_parts(found.parts))
    _save(folder / "image-parse-v3" / name, colour_labels(found.parse))
    _save(folder / "image" / name, image)


def write_garment(photo: np.ndarray, folder: Path, name: str, height: int, width: int) -> None:
    flat, mask = flat_garment(photo, garment_mask(photo), height, width)
    _save(folder / "cloth-mask" / name, np.where(mask > 0.5, 255, 0).astype(np.uint8))
    _save(folder / "cloth" / name, flat)


def _save(file: Path, picture: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(file) as partial:
        Image.fromarray(picture).save(partial, format="PNG")


def _pairs(persons: Sequence[str], garments: Sequence[str]) -> list[str]:
    return [
        f"{person} {garment}"
        for person in persons
        for garment in ([person] if person in garments else garments)
    ]


def _write_lines(file: Path, lines: Sequence[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(file) as partial:
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
