"""Which pairs a step takes, and their latents: a function of seed and step alone."""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..errors import StableVITONError
from .augmentation import augmented, random_augmentation
from .config import TrainConfig
from .dataset import Pair, Sample, load
from .latent_cache import LatentCache, hashed, pair_hash, weights_hash
from .latents import Latents, encode_samples
from .model import TryOnModel

Choice = tuple[int, int]  # a pair's index, and the epoch it is drawn in
FORMAT = "1"  # to be raised when augmentation or encoding changes
SHARD = 64  # entries of the cache a file
TOGETHER = 8  # pictures of a kind encoded at a time


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(count, generator=generator)


def chosen(seed: int, position: int, count: int) -> Choice:
    """The pair at a position of the endless sequence of shuffled epochs."""
    epoch, place = divmod(position, count)
    return int(_order(seed, epoch, count)[place]), epoch


@dataclass(frozen=True)
class Share:
    """What one process takes of a step's joint batch: `accumulation` batches of `size` pairs, with
    those of the other processes between them."""

    size: int
    accumulation: int = 1
    processes: int = 1
    rank: int = 0

    @property
    def joint(self) -> int:
        return self.size * self.accumulation * self.processes

    def part(self, index: int) -> slice:
        """Rows of the joint batch that are this process' batch number `index`."""
        first = (index * self.processes + self.rank) * self.size
        return slice(first, first + self.size)

    def choices(self, seed: int, step: int, index: int, count: int) -> list[Choice]:
        """The pairs of that batch."""
        rows = range(self.joint)[self.part(index)]
        return [chosen(seed, step * self.joint + row, count) for row in rows]


def choices(seed: int, start: int, stop: int, count: int, share: Share) -> Iterator[list[Choice]]:
    """The pairs of every batch of this process, from step `start` on."""
    for step in range(start, stop):
        for index in range(share.accumulation):
            yield share.choices(seed, step, index, count)


def picture(pair: Pair, config: TrainConfig, variant: int) -> Sample:
    """A pair's pictures, augmented by chance that follows from seed, pair and variant."""
    sample = load(pair, config.height, config.width)
    if not config.augmentation:
        return sample
    seeds = [config.seed, variant, zlib.crc32(pair.name.encode())]
    return augmented(sample, random_augmentation(np.random.default_rng(seeds)))


class Pictures(Dataset):
    """Samples by (pair, epoch): a new variant in every epoch."""

    def __init__(self, pairs: Sequence[Pair], config: TrainConfig):
        self.pairs, self.config = pairs, config

    def __getitem__(self, choice: Choice) -> Sample:
        index, epoch = choice
        return picture(self.pairs[index], self.config, epoch)


class Cached(Dataset):
    """Latents by (pair, epoch): the epochs go through the cached variants."""

    def __init__(self, cache: LatentCache, keys: Sequence[Sequence[str]]):
        self.cache, self.keys = cache, keys

    def __getitem__(self, choice: Choice) -> dict[str, Tensor]:
        index, epoch = choice
        variants = self.keys[index]
        return self.cache[variants[epoch % len(variants)]]


def stacked(items: Sequence[dict[str, Tensor]]) -> Latents:
    names = set.intersection(*(set(item) for item in items))
    return Latents(**{name: torch.stack([item[name] for item in items]) for name in names})


def cache_keys(
    pairs: Sequence[Pair], config: TrainConfig, model: TryOnModel, autoencoder: AutoencoderKL
) -> list[list[str]]:
    """The keys of every pair's variants: a hash of all that the latents depend on."""
    frozen = [weights_hash(autoencoder)]
    if not model.trains_embedding():
        frozen += [weights_hash(part) for part in (model.clip, model.image_projector.mapper)]
        frozen += [weights_hash(model.image_projector.final_ln)]
    how = (
        model.config.clip,
        model.config.mapper_heads,
        autoencoder.config["scaling_factor"],
        config.height,
        config.width,
        config.augmentation,
        config.mixed_precision,
        config.seed if config.augmentation else None,
    )
    recipe = hashed(FORMAT, *frozen, repr(how))
    variants = range(config.cache_variants if config.augmentation else 1)
    contents = [pair_hash(pair) for pair in tqdm(pairs, desc="hashing", mininterval=1)]
    return [
        [hashed(recipe, content, pair.name, str(variant)) for variant in variants]
        for pair, content in zip(pairs, contents, strict=True)
    ]


def fill_cache(
    cache: LatentCache,
    keys: Sequence[Sequence[str]],
    pairs: Sequence[Pair],
    config: TrainConfig,
    model: TryOnModel,
    autoencoder: AutoencoderKL,
    accelerator: Accelerator,
) -> None:
    """Encode what the cache does not hold; each process a share of it. StableVITONError where another
    process' share does not arrive."""
    accelerator.wait_for_everyone()  # before the first writes, so that all see the same
    cache.refresh()
    missing = [
        (key, pair, variant)
        for pair, variants in zip(pairs, keys, strict=True)
        for variant, key in enumerate(variants)
        if key not in cache
    ]
    own = missing[accelerator.process_index :: accelerator.num_processes]
    with tqdm(total=len(own), desc="encoding", mininterval=1, disable=not own) as bar:
        for first in range(0, len(own), SHARD):
            entries: dict[str, Latents] = {}
            shard = own[first : first + SHARD]
            for some in range(0, len(shard), TOGETHER):
                group = shard[some : some + TOGETHER]
                samples = [picture(pair, config, variant) for _, pair, variant in group]
                latents = encode_samples(autoencoder, model, samples)
                entries |= {key: latents[i : i + 1] for i, (key, _, _) in enumerate(group)}
                bar.update(len(group))
            cache.add(entries)
    accelerator.wait_for_everyone()
    cache.refresh()
    if any(key not in cache for key, _, _ in missing):
        raise StableVITONError(
            f"{cache.folder} lacks latents that another process encoded. cache_dir, or output, "
            "must lie on a disk that all processes share."
        )


def loader(dataset: Dataset, batches: Iterable[list[Choice]], workers: int) -> DataLoader:
    """Batches of Latents from a cache, else lists of samples."""
    collate = stacked if isinstance(dataset, Cached) else list
    return DataLoader(dataset, batch_sampler=batches, collate_fn=collate, num_workers=workers)
