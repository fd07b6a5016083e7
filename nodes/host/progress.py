"""Progress and interruption of nodes that work through a batch."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import comfy.model_management
import comfy.utils

Item = TypeVar("Item")


def iterate_with_progress(items: Sequence[Item]) -> Iterator[Item]:
    """The items, one after the other, with a progress bar on the node.

    Raises the host's InterruptProcessingException before an item where the user has stopped the
    run.
    """
    bar = comfy.utils.ProgressBar(len(items))
    for item in items:
        comfy.model_management.throw_exception_if_processing_interrupted()
        yield item
        bar.update(1)
