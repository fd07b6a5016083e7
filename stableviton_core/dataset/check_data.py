"""What is wrong with a data set, all at once, before a run."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from ..errors import StableVITONError
from ..images import GREY_LEVEL, read_image, read_mask, read_orientation
from ..person.densepose import PARULA_PALETTE
from ..person.labels import match_palette
from .dresscode import read_densepose, read_keypoints, read_label_map
from .pairs import Pair, find_file, read_pairs

MAX_LISTED = 20
UPRIGHT = 1  # EXIF orientation
JPEG_BLOCK = 8  # pixels; beside an edge, compression changes that far
GREY_TOLERANCE = 24  # levels that compression may change
VISIBLE_SHARE = 0.2  # of the masked region, from which on an agnostic image shows the garment
BLACK_LEVEL = 16
MINIMUM_PERSON = 0.005  # of an image
FOREIGN_SHARE = 0.3  # of a DensePose image in other colours
MASKS = ("mask", "warped_mask")
RESIZED_APART = ("labels", "keypoints", "densepose")  # DressCode stores them smaller


def check_data(data: Path, splits: Sequence[str] = ("train", "test")) -> tuple[list[str], str]:
    """Every problem of a data set, one a line, and a line of counts. Every file is decoded.

    Garment masks are no input of the method, so missing ones are counted only.
    """
    problems, counts = [], []
    for split in splits:
        try:
            pairs = read_pairs(data, split, paired=split == "train")
        except StableVITONError as error:
            problems.append(str(error))
            continue
        problems += list_duplicates(pairs)
        with ThreadPoolExecutor() as threads:  # decoding releases the interpreter
            lists = threads.map(list_problems, pairs)
            for found in tqdm(lists, f"checking {split}", len(pairs), mininterval=1):
                problems += found
        garment_masks = sum(_has_garment_mask(data / split, pair) for pair in pairs)
        warped_masks = sum(pair.warped_mask is not None for pair in pairs)
        coordinates = sum(pair.garment_coordinates is not None for pair in pairs)
        counts.append(
            f"{split}: {len(pairs)} pairs, {garment_masks} with a garment mask, {warped_masks} "
            f"with a warped garment mask, {coordinates} with garment coordinates"
        )
    problems = list(dict.fromkeys(problems))
    counts.append(f"{len(problems)} problems")
    return problems, "; ".join(counts)


def list_duplicates(pairs: Sequence[Pair]) -> list[str]:
    counts = Counter((pair.image, pair.cloth) for pair in pairs)
    return [
        f"{image.stem}+{cloth.stem} is there {count} times"
        for (image, cloth), count in counts.items()
        if count > 1
    ]


def list_problems(pair: Pair) -> list[str]:
    """What is wrong with the files of a pair: missing, unreadable, rotated by EXIF, of another
    aspect than the person, or with contents that cannot be meant."""
    images: dict[str, np.ndarray] = {}
    problems = []
    for kind, path in pair.files():
        try:
            images |= _decode(pair, kind, path)
        except StableVITONError as error:
            problems.append(f"{pair.name}: {kind} {error}")
            continue
        if kind != "keypoints" and (orientation := read_orientation(path)) != UPRIGHT:
            problems.append(
                f"{pair.name}: {kind} {path} is rotated by its EXIF orientation {orientation}, "
                "which not every program applies. Save it upright"
            )
    problems += [f"{pair.name}: {problem}" for problem in _list_endings(pair)]
    return problems + [f"{pair.name}: {problem}" for problem in _list_contents(pair, images)]


def _decode(pair: Pair, kind: str, path: Path) -> dict[str, np.ndarray]:
    if kind == "keypoints":
        read_keypoints(path, 1, 1)
        return {}
    if kind == "labels":
        return {kind: read_label_map(path)}
    if kind == "densepose":
        return {kind: read_densepose(path)}
    return {kind: read_mask(path) if kind in MASKS else read_image(path)}


def _list_endings(pair: Pair) -> Iterator[str]:
    for name, path in ((pair.person, pair.image), (pair.garment, pair.cloth)):
        if path.suffix != Path(name).suffix and path.suffix.lower() == Path(name).suffix.lower():
            yield f"the pair file names {name}, the file is {path}. Give both one ending"


def _list_contents(pair: Pair, images: dict[str, np.ndarray]) -> Iterator[str]:
    """Problems of the images that could be decoded."""
    if "image" in images:
        height, width = images["image"].shape[:2]
        for kind, image in images.items():
            h, w = image.shape[:2]
            exact = kind not in RESIZED_APART or pair.labels is None
            if (h, w) != (height, width) and (exact or abs(w * height / h - width) > 1):
                yield f"{kind} is {w} x {h}, the image {width} x {height}"
    mask = images.get("mask")
    if mask is not None and not mask.any():
        yield f"{pair.mask} is empty: there is nothing to generate"
    elif mask is not None and mask.all():
        yield f"{pair.mask} is all white: nothing of the person is kept"
    agnostic = images.get("agnostic")
    if mask is not None and agnostic is not None and agnostic.shape[:2] == mask.shape:
        share = measure_visible_share(agnostic, mask)
        if share > VISIBLE_SHARE:
            yield (
                f"{pair.agnostic} still shows {share:.0%} of the masked region. It is grey "
                f"{GREY_LEVEL} there"
            )
    if "densepose" in images:
        yield from _list_densepose_problems(pair, images["densepose"])


def measure_visible_share(agnostic: np.ndarray, mask: np.ndarray) -> float:
    """The share of a masked region that is not grey in an agnostic image H x W x 3 uint8, away from
    the mask's edge. mask: H x W uint8, 255 = generate. 0 where the region is all edge."""
    kernel = np.ones((2 * JPEG_BLOCK + 1,) * 2, np.uint8)
    inside = cv2.erode(mask, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=255) > 0
    if not inside.any():
        return 0.0
    distance = np.abs(agnostic[inside].astype(np.int16) - GREY_LEVEL).max(axis=1)
    return float((distance > GREY_TOLERANCE).mean())


def _list_densepose_problems(pair: Pair, image: np.ndarray) -> Iterator[str]:
    person = image.max(axis=-1) > BLACK_LEVEL
    if person.mean() < MINIMUM_PERSON:
        yield f"{pair.densepose} is black: it shows no person"
        return
    _, foreign = match_palette(image, PARULA_PALETTE)
    if foreign > FOREIGN_SHARE:
        yield (
            f"{pair.densepose} is no DensePose image in VITON-HD's colours: {foreign:.0%} of the "
            "person has others. It shows part indices in OpenCV's Parula on black"
        )


def _has_garment_mask(folder: Path, pair: Pair) -> bool:
    garment = Path(pair.garment)
    return find_file(folder, ("cloth-mask", "cloth_mask"), garment.stem, garment.suffix).is_file()


def require_files(pairs: Sequence[Pair]) -> None:
    """StableVITONError that lists the first missing files of pairs."""
    missing = [
        f"  {pair.name}: {kind} {path} is missing"
        for pair in pairs
        for kind, path in pair.files()
        if not path.is_file()
    ]
    if missing:
        more = [f"  and {len(missing) - MAX_LISTED} more"] if len(missing) > MAX_LISTED else []
        listing = "\n".join([*missing[:MAX_LISTED], *more])
        raise StableVITONError(
            f"{len(missing)} files are missing:\n{listing}\n"
            "`python -m stableviton_core check-data DIR` lists everything that is wrong."
        )
