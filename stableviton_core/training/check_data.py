"""What is wrong with a data set, all at once, before a run."""

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ..errors import StableVITONError
from .dataset import Pair, find, read_image, read_mask, read_pairs

SHOWN = 20


def missing_files(pairs: Sequence[Pair]) -> list[str]:
    return [
        f"{pair.name}: {kind} {path} is missing"
        for pair in pairs
        for kind, path in pair.files()
        if not path.is_file()
    ]


def problems_of(pair: Pair) -> list[str]:
    """Everything about one pair: missing, unreadable, of another size than its image, or a mask
    with nothing to generate."""
    found, sizes = [], {}
    for kind, path in pair.files():
        try:
            is_mask = kind in ("mask", "warped")
            picture = read_mask(path) if is_mask else read_image(path)
        except StableVITONError as error:
            found.append(f"{pair.name}: {kind}: {error}")
            continue
        sizes[kind] = picture.shape[:2]
        if kind == "mask" and not picture.any():
            found.append(f"{pair.name}: {path} is empty: there is nothing to generate")
    expected = sizes.get("image")
    found += [
        f"{pair.name}: {kind} is {size[1]} x {size[0]}, the image {expected[1]} x {expected[0]}"
        for kind, size in sizes.items()
        if expected and size != expected
    ]
    return found


def check_data(data: Path, splits: Sequence[str] = ("train", "test")) -> tuple[list[str], str]:
    """Every problem of the pairs that are there, and a line of counts.

    The garments' masks are no input of the method, so a missing one is counted, not a problem.
    """
    problems, counts = [], []
    for split in splits:
        try:
            pairs = read_pairs(data, split, paired=split == "train")
        except StableVITONError as error:
            problems.append(str(error))
            continue
        for pair in tqdm(pairs, desc=f"checking {split}", mininterval=1):
            problems += problems_of(pair)
        masks = sum(_has_garment_mask(data / split, pair) for pair in pairs)
        warped = sum(pair.warped is not None for pair in pairs)
        garment_coordinates = sum(pair.garment_coordinates is not None for pair in pairs)
        counts.append(
            f"{split}: {len(pairs)} pairs, {masks} with a garment mask, {warped} with a warped "
            f"garment mask, {garment_coordinates} with the garment_coordinates of its pixels"
        )
    counts.append(f"{len(problems)} problems")
    return problems, "; ".join(counts)


def _has_garment_mask(folder: Path, pair: Pair) -> bool:
    stem, suffix = Path(pair.garment).stem, Path(pair.garment).suffix
    return find(folder, ("cloth-mask", "cloth_mask"), stem, suffix).is_file()


def raise_missing(pairs: Sequence[Pair]) -> None:
    """StableVITONError with the first missing files."""
    missing = missing_files(pairs)
    if missing:
        more = f"\n  and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        listed = "\n".join(f"  {line}" for line in missing[:SHOWN])
        raise StableVITONError(
            f"{len(missing)} files are missing:\n{listed}{more}\n"
            "`python -m stableviton_core check-data DIR` lists everything that is wrong."
        )
