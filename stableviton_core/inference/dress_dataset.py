"""Try-ons of a data set's pairs, in batches, each result written as soon as it is there."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from tqdm import tqdm

from ..dataset.pairs import Pair
from ..dataset.samples import Sample, load_sample
from ..errors import StableVITONError
from ..images import write_image
from ..plms import plms_timesteps
from .check_run import result_file
from .config import TryOnConfig
from .devices import Part
from .tryons import load_networks, make_tryons

Item = TypeVar("Item")
Result = TypeVar("Result")
BAR = "{desc}{percentage:3.0f}%|{bar}| {elapsed} passed, {remaining} left"


@dataclass(frozen=True)
class Group:
    """Pairs of one batch and their samples; failures: by name the reason why a pair has none."""

    pairs: list[Pair]
    samples: list[Sample]
    failures: dict[str, str]


def dress_dataset(
    config: TryOnConfig, pairs: Sequence[Pair], part: Part, show_progress: bool = True
) -> dict[str, str]:
    """Make the results of a part of the pairs that are missing -> the pairs that have none, by name
    with the reason: an image that cannot be read.

    Batches are formed before existing results are left out, so that a run that was stopped and
    started again computes the same batches and writes the same files.
    """
    own = pairs[part.index :: part.count]
    batches = [own[i : i + config.batch_size] for i in range(0, len(own), config.batch_size)]
    missing = [batch for batch in batches if not all(_is_made(pair, config) for pair in batch)]
    failures: dict[str, str] = {}
    if not missing:
        return failures
    networks = load_networks(config)
    steps = len(plms_timesteps(config.steps))
    total = sum(map(len, missing)) * steps
    made = len(own) - sum(map(len, missing))
    with tqdm(
        total=total,
        desc=f"{made} of {len(own)} images",
        bar_format=BAR,
        mininterval=1,
        disable=not show_progress,
    ) as bar:
        for group in load_ahead(missing, lambda batch: load_group(batch, config)):
            failures |= group.failures
            count = len(group.pairs)
            bar.update(len(group.failures) * steps)
            if not count:
                continue
            names = [pair.name for pair in group.pairs]
            results = make_tryons(
                networks, group.samples, names, config, partial(bar.update, count)
            )
            for pair, result in zip(group.pairs, results, strict=True):
                if not _is_made(pair, config):
                    write_image(result_file(pair, config), result)
            made += count
            bar.set_description(f"{made} of {len(own)} images")
    return failures


def load_group(batch: Sequence[Pair], config: TryOnConfig) -> Group:
    group = Group([], [], {})
    for pair in batch:
        try:
            sample = load_sample(pair, config.height, config.width, config.garment_fit)
        except StableVITONError as error:
            group.failures[pair.name] = str(error)
        else:
            group.pairs.append(pair)
            group.samples.append(sample)
    return group


def load_ahead(items: Sequence[Item], load: Callable[[Item], Result]) -> Iterator[Result]:
    """`load` of each item, the next one in a thread while this one is used."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        pending = thread.submit(load, items[0])
        for following in items[1:]:
            result = pending.result()
            pending = thread.submit(load, following)
            yield result
        yield pending.result()


def _is_made(pair: Pair, config: TryOnConfig) -> bool:
    return result_file(pair, config).is_file()
