"""Long work on a batch: its progress bar, and a place to interrupt it."""

from collections.abc import Iterable, Iterator, Sized
from typing import Protocol, TypeVar

import comfy.model_management
import comfy.utils

Item = TypeVar("Item", covariant=True)


class Batch(Sized, Iterable[Item], Protocol[Item]):
    """Has a length, and is gone through once."""


def each(items: Batch[Item]) -> Iterator[Item]:
    bar = comfy.utils.ProgressBar(len(items))
    for item in items:
        comfy.model_management.throw_exception_if_processing_interrupted()
        yield item
        bar.update(1)
