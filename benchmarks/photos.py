"""Agnostic masks on photos of people: what of the worn garment they cover, what of the rest.

    python benchmarks/photos.py [--invariance] [--image FILE]

Photos: those of `photo_files` on which photo_outlines.yaml has outlines, drawn by hand: of what is
worn, and of head and hands. Each is cropped to 512 x 384 around the category's garments and masked
with the shipped networks. Columns: share of the worn garment that the mask covers, share of head
and hands that it covers, area of the mask by that of the garment. What of a garment lies outside
the crop counts as not covered. --invariance: intersection over union of a photo's mask with that
of the same photo at another size, in grey, mirrored and compressed. --image: the photos with their
masks, missed garment in red, covered head and hands in yellow.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import yaml
from photo_files import list_photos

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from stableviton_core.errors import StableVITONError  # noqa: E402
from stableviton_core.images import read_image, write_image  # noqa: E402
from stableviton_core.person.agnostic import MaskOptions, PersonInputs, make_agnostic_mask  # noqa: E402
from stableviton_core.person.crop_box import crop_garment  # noqa: E402

HEIGHT, WIDTH = 512, 384
OUTLINES = Path(__file__).with_name("photo_outlines.yaml")
CATEGORIES = ("upper", "lower", "dress")
SETTINGS = {
    "default": {},
    "viton-hd": {"rule": "viton-hd"},
    "densepose": {"rule": "densepose"},
    "sleeves as worn": {"sleeves": "as worn"},
}
TILE, COLUMNS = 240, 7


@dataclass(frozen=True, eq=False)
class Case:
    """A photo H x W x 3 uint8 and what is drawn on it: masks H x W bool."""

    name: str
    photo: np.ndarray
    category: str
    garment: np.ndarray
    kept: np.ndarray


def list_cases() -> Iterator[Case]:
    photos = {path.name: path for path in list_photos()}
    for name, outlines in yaml.safe_load(OUTLINES.read_text(encoding="utf-8")).items():
        if name not in photos:
            print(f"{name} is not installed, left out", file=sys.stderr)
            continue
        photo = read_image(photos[name])
        kept = fill_outlines(outlines["keep"], photo)
        for category in CATEGORIES:
            if category in outlines:
                garment = fill_outlines(outlines[category], photo) & ~kept
                yield Case(name, photo, category, garment, kept)


def fill_outlines(outlines: list[str], photo: np.ndarray) -> np.ndarray:
    """outlines: "x y, x y, ..." in percent of the photo's width and height."""
    height, width = photo.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    for outline in outlines:
        corners = np.array(
            [[float(value) for value in pair.split()] for pair in outline.split(",")]
        )
        points = np.round(corners * (width, height) / 100 * 16).astype(np.int32)
        cv2.fillPoly(mask, [points], 1, shift=4)
    return mask > 0


def mask_photo(photo: np.ndarray, category: str, **options: str) -> np.ndarray:
    """The mask of a photo, H x W bool; empty where there is none."""
    height, width = photo.shape[:2]
    try:
        region, image, pose = crop_garment(photo, category, HEIGHT, WIDTH)
        mask, _ = make_agnostic_mask(
            image, PersonInputs(pose=pose), MaskOptions(category=category, **options)
        )
    except StableVITONError as error:
        print(f"  {error}", file=sys.stderr)
        return np.zeros((height, width), bool)
    scale = region.height / HEIGHT
    matrix = np.array(
        [[scale, 0, region.left + (scale - 1) / 2], [0, scale, region.top + (scale - 1) / 2]]
    )
    return cv2.warpAffine(mask.astype(np.float32), matrix, (width, height)) > 0.5


def measure(case: Case, mask: np.ndarray) -> tuple[float, float, float]:
    """Shares of garment and of head and hands that are covered, and the mask by the garment."""
    garment = case.garment.sum()
    kept = (mask & case.kept).sum() / case.kept.sum()
    return (mask & case.garment).sum() / garment, kept, mask.sum() / garment


def print_coverage(cases: list[Case]) -> None:
    print(
        "| setting | category | photos | garment: mean, worst | head and hands | mask / garment |"
    )
    print("|---" * 6 + "|")
    for name, options in SETTINGS.items():
        for category in CATEGORIES:
            if name == "viton-hd" and category != "upper":
                continue
            chosen = [case for case in cases if case.category == category]
            masks = [mask_photo(case.photo, category, **options) for case in chosen]
            values = np.array([measure(*pair) for pair in zip(chosen, masks, strict=True)])
            mean = values.mean(axis=0)
            print(
                f"| {name} | {category} | {len(chosen)} | {mean[0]:.1%}, {values[:, 0].min():.1%} "
                f"| {mean[1]:.1%} | {mean[2]:.2f} |",
                flush=True,
            )


Change = Callable[[np.ndarray], np.ndarray]


def resize_by(factor: float) -> Change:
    filter_ = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return lambda photo: cv2.resize(photo, None, fx=factor, fy=factor, interpolation=filter_)


def compress(photo: np.ndarray) -> np.ndarray:
    _, data = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, 60])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


CHANGES: dict[str, Change] = {
    "half the size": resize_by(0.5),
    "4 x the size": resize_by(4),
    "grey": lambda photo: cv2.cvtColor(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB),
    "mirrored": lambda photo: np.ascontiguousarray(photo[:, ::-1]),
    "JPEG, quality 60": compress,
}


def print_invariance(cases: list[Case]) -> None:
    masks = [mask_photo(case.photo, case.category) for case in cases]
    print("\n| changed | mean IoU | median | 0.95 or more |")
    print("|---" * 4 + "|")
    for name, change in CHANGES.items():
        values = []
        for case, mask in zip(cases, masks, strict=True):
            other = mask_photo(change(case.photo), case.category)
            if name == "mirrored":
                other = other[:, ::-1]
            size = mask.shape[::-1]
            other = cv2.resize(other.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
            values.append((mask & other).sum() / max(1, (mask | other).sum()))
        enough = sum(value >= 0.95 for value in values)
        print(
            f"| {name} | {np.mean(values):.3f} | {np.median(values):.3f} "
            f"| {enough} of {len(values)} |",
            flush=True,
        )


def draw(case: Case) -> np.ndarray:
    """A tile of the image: the photo, its mask in green, faults in red and yellow."""
    mask = mask_photo(case.photo, case.category)
    values = measure(case, mask)
    scale = TILE / max(case.photo.shape[:2])
    tile = cv2.resize(case.photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    masked, garment, kept = (
        cv2.resize(m.astype(np.uint8), tile.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
        for m in (mask, case.garment, case.kept)
    )
    tile[masked] = (0.5 * tile[masked] + (0, 80, 0)).astype(np.uint8)
    tile[garment & ~masked] = (255, 0, 0)
    tile[kept & masked] = (255, 255, 0)
    canvas = np.full((TILE + 18, TILE, 3), 255, np.uint8)
    canvas[: len(tile), : tile.shape[1]] = tile
    text = f"{case.category} {values[0]:.1%} {values[1]:.1%} {values[2]:.2f}"
    cv2.putText(
        canvas, text, (4, TILE + 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA
    )
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--invariance", action="store_true")
    parser.add_argument("--image", type=Path)
    arguments = parser.parse_args()
    cases = list(list_cases())
    if arguments.image:
        tiles = [draw(case) for case in cases]
        tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % COLUMNS)
        rows = [
            np.hstack(tiles[start : start + COLUMNS]) for start in range(0, len(tiles), COLUMNS)
        ]
        write_image(arguments.image, np.vstack(rows))
        return
    print_coverage(cases)
    if arguments.invariance:
        print_invariance(cases)


if __name__ == "__main__":
    main()
