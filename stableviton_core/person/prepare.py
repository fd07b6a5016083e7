"""A data set in VITON-HD's layout from photos of persons and of garments."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from tqdm import tqdm

from ..devices import choose_device, list_missing_devices
from ..errors import StableVITONError
from ..files import replace_atomically
from ..images import list_images
from ..interruption import INTERRUPTED, raise_interrupt_on_sigterm
from .prepare_config import PrepareConfig, record_settings
from .prepare_workers import Item, Kind, Prepare, start_workers

REPORT = "report.txt"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparationReport:
    """persons, garments: names of the images that are there, in order. pairs: lines of the pair
    file. unused: the photos that are in no pair, with the reason."""

    persons: list[str]
    garments: list[str]
    pairs: list[str]
    unused: dict[str, str]


def run(config: PrepareConfig) -> int:
    """Prepare a data set and say what came of it. The exit code: 0 where there are pairs, 1 where
    there are none, 130 after Ctrl-C or SIGTERM."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    raise_interrupt_on_sigterm()
    try:
        report = prepare_dataset(config)
    except KeyboardInterrupt:
        _log.warning(
            "Stopped. What is done is in %s. Run the same command again to go on.", config.output
        )
        return INTERRUPTED
    persons, garments, pairs = map(len, (report.persons, report.garments, report.pairs))
    _log.info("%d persons, %d garments, %d pairs in %s", persons, garments, pairs, config.output)
    if report.unused:
        _log.warning("%d photos are not used, see %s", len(report.unused), config.output / REPORT)
    return 0 if report.pairs else 1


def prepare_dataset(config: PrepareConfig) -> PreparationReport:
    """Write the split's folder, its pair file and report.txt.

    For the split train a pair is a person and the garment of the same name, which the person wears;
    photos without a counterpart are left out. For test, it is every person with the garment of the
    same name, where there is one, else with all garments. Items that an earlier run finished are
    skipped. StableVITONError lists what is wrong with settings, folders and device, before a
    network is loaded; and where the output was made with other settings.
    """
    problems = config.list_problems() + list_missing_devices(choose_device(config.device))
    items: dict[Kind, list[Item]] = {}
    unused: dict[str, str] = {}
    folders: tuple[tuple[Kind, Path], ...] = (("cloth", config.garments), ("image", config.persons))
    for kind, folder in folders:
        try:
            items[kind] = _list_items(kind, folder, unused)
        except StableVITONError as error:
            problems.append(str(error))
    if problems:
        listing = "\n".join(f"- {problem}" for problem in problems)
        raise StableVITONError(f"nothing was made, {len(problems)} problems:\n{listing}")
    record_settings(config)
    if config.split == "train":
        items["cloth"], items["image"] = (
            _select_partners(items["cloth"], items["image"], "no person's photo", unused),
            _select_partners(items["image"], items["cloth"], "no garment's photo", unused),
        )
    try:
        report = _prepare_items(config, items["image"], items["cloth"], unused)
        _write_pairs(config.pair_file, report.pairs)
        reasons = [f"{photo}: {reason}" for photo, reason in unused.items()]
        _write_lines(config.output / REPORT, reasons)
    except OSError as error:
        raise StableVITONError(
            f"{config.output} cannot be written ({error}). What is done is kept: run the same "
            "command again."
        ) from error
    return report


def _list_items(kind: Kind, folder: Path, unused: dict[str, str]) -> list[Item]:
    """The photos of a folder under the names of their images: pair files allow no spaces. Photos
    whose name another one has go into unused."""
    items: dict[str, Item] = {}
    for photo in list_images(folder):
        name = "_".join(photo.stem.split())
        if name in items:
            taken = items[name].photo.name
            unused[str(photo)] = f"{taken} has the same name; rename one of them."
        else:
            items[name] = Item(kind, photo, name)
    return list(items.values())


def _select_partners(
    items: Sequence[Item], others: Sequence[Item], what: str, unused: dict[str, str]
) -> list[Item]:
    """The items whose name one of the others has, too; the rest goes into unused."""
    names = {other.name for other in others}
    for item in items:
        if item.name not in names:
            unused[str(item.photo)] = f"{what} has the name {item.name!r}, so it is in no pair."
    return [item for item in items if item.name in names]


def _prepare_items(
    config: PrepareConfig, persons: Sequence[Item], garments: Sequence[Item], unused: dict[str, str]
) -> PreparationReport:
    """Make the images that are missing. Persons come first, for their networks may not load."""
    with start_workers(config) as prepare:
        dressed = _make_missing(config, persons, prepare, "persons", unused)
        worn = _make_missing(config, garments, prepare, "garments", unused)
    images, cloth = [item.file for item in dressed], [item.file for item in worn]
    if config.split == "train":
        both = set(images) & set(cloth)
        for item in (*dressed, *worn):
            if item.file not in both:
                unused[str(item.photo)] = "the photo of the same name could not be used."
    return PreparationReport(images, cloth, _list_pairs(images, cloth, config.split), unused)


def _make_missing(
    config: PrepareConfig,
    items: Sequence[Item],
    prepare: Prepare,
    description: str,
    unused: dict[str, str],
) -> list[Item]:
    """The items whose images are there in the end; the others go into unused."""
    missing = [item for item in items if not _is_finished(item, config)]
    made = len(items) - len(missing)
    with tqdm(total=len(items), initial=made, desc=description, unit="photo", mininterval=1) as bar:
        reasons: dict[Item, str] = {}
        for item, reason in prepare(missing):
            if reason is not None:
                reasons[item] = reason
            bar.update()
    unused.update({str(item.photo): reasons[item] for item in items if item in reasons})
    return [item for item in items if item not in reasons]


def _is_finished(item: Item, config: PrepareConfig) -> bool:
    return (config.folder / item.kind / item.file).is_file()


def _list_pairs(persons: Sequence[str], garments: Sequence[str], split: str) -> list[str]:
    present = set(garments)
    return [
        f"{person} {garment}"
        for person in persons
        for garment in ([person] if person in present else [] if split == "train" else garments)
    ]


def _write_pairs(file: Path, lines: Sequence[str]) -> None:
    """Write a pair file. One that is there with other lines is kept under a free name with .old."""
    if file.is_file() and file.read_text(encoding="utf-8", errors="replace").splitlines() != list(
        lines
    ):
        names = (file.with_name(f"{file.name}.old{number}") for number in chain([""], count(2)))
        file.replace(next(name for name in names if not name.exists()))
    _write_lines(file, lines)


def _write_lines(file: Path, lines: Sequence[str]) -> None:
    with replace_atomically(file) as partial:
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
