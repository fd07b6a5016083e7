"""What is wrong with a data set, all at once, before a run."""

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ..errors import StableVITONError
from ..images import read_image, read_mask
from .pairs import Pair, find_file, read_pairs

MAX_LISTED = 20


def check_data(data: Path, splits: Sequence[str] = ("train", "test")) -> tuple[list[str], str]:
    """Every problem of a data set, one a line, and a line of counts.

    Garment masks are no input of the method, so missing ones are counted only.
    """
    problems, counts = [], []
    for split in splits:
        try:
            pairs = read_pairs(data, split, paired=split == "train")
        except StableVITONError as error:
            problems.append(str(error))
            continue
        for pair in tqdm(pairs, desc=f"checking {split}", mininterval=1):
            problems += list_problems(pair)
        garment_masks = sum(_has_garment_mask(data / split, pair) for pair in pairs)
        warped_masks = sum(pair.warped_mask is not None for pair in pairs)
        coordinates = sum(pair.garment_coordinates is not None for pair in pairs)
        counts.append(
            f"{split}: {len(pairs)} pairs, {garment_masks} with a garment mask, {warped_masks} "
            f"with a warped garment mask, {coordinates} with garment coordinates"
        )
    counts.append(f"{len(problems)} problems")
    return problems, "; ".join(counts)


def list_problems(pair: Pair) -> list[str]:
    """Files of a pair that are missing, unreadable or of another size than its image, and a mask
    with nothing to generate."""
    problems, sizes = [], {}
    for kind, path in pair.files():
        try:
            read = read_mask if kind in ("mask", "warped_mask") else read_image
            image = read(path)
        except StableVITONError as error:
            problems.append(f"{pair.name}: {kind} {error}")
            continue
        sizes[kind] = image.shape[:2]
        if kind == "mask" and not image.any():
            problems.append(f"{pair.name}: {path} is empty: there is nothing to generate")
    height, width = sizes.get("image", (0, 0))
    problems += [
        f"{pair.name}: {kind} is {size[1]} x {size[0]}, the image {width} x {height}"
        for kind, size in sizes.items()
        if "image" in sizes and size != (height, width)
    ]
    return problems


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
