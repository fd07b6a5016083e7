"""Which samples a training step takes: a function of seed and step alone, so that a resumed run and
a run on other devices see the same ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

SampleIndex = tuple[int, int]  # index in the data set, epoch


@lru_cache(maxsize=2)
def _shuffle_epoch(seed: int, epoch: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(count, generator=generator)


def locate_sample(seed: int, position: int, count: int) -> SampleIndex:
    """The sample at a position of the endless sequence of shuffled epochs of `count` samples."""
    epoch, row = divmod(position, count)
    return int(_shuffle_epoch(seed, epoch, count)[row]), epoch


@dataclass(frozen=True)
class DistributedStepSampler:
    """Divides the joint batch of an optimizer step among accumulation steps and processes.

    The joint batch has batch_size x accumulation_steps x num_processes rows, ordered by
    accumulation step, then by process.
    """

    batch_size: int
    accumulation_steps: int = 1
    num_processes: int = 1
    process_index: int = 0

    @property
    def joint_batch_size(self) -> int:
        return self.batch_size * self.accumulation_steps * self.num_processes

    def slice_of(self, accumulation_index: int) -> slice:
        """Rows of the joint batch that this process takes in one accumulation step."""
        first = (accumulation_index * self.num_processes + self.process_index) * self.batch_size
        return slice(first, first + self.batch_size)

    def sample_indices(
        self, seed: int, step: int, accumulation_index: int, count: int
    ) -> list[SampleIndex]:
        """The samples of these rows, from a data set of `count`."""
        rows = range(self.joint_batch_size)[self.slice_of(accumulation_index)]
        return [locate_sample(seed, step * self.joint_batch_size + row, count) for row in rows]


def iterate_batches(
    seed: int, start: int, stop: int, count: int, sampler: DistributedStepSampler
) -> Iterator[list[SampleIndex]]:
    """Sample indices of every batch of this process in the steps `start` to `stop`."""
    for step in range(start, stop):
        for accumulation_index in range(sampler.accumulation_steps):
            yield sampler.sample_indices(seed, step, accumulation_index, count)
