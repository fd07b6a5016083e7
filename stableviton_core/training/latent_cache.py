"""Training pairs as the network takes them: encoded by the frozen VAE and CLIP, and cached on disk,
so that a step needs neither images nor the autoencoder."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from ..dataset.pairs import Pair
from ..errors import StableVITONError
from ..files import replace_atomically
from ..inference.encoding import Latents, encode_samples
from ..model.tryon_model import TryOnModel
from .augmentation import load_augmented_sample
from .config import TrainConfig
from .distributed_sampler import SampleIndex

FORMAT = "3"  # raise it when augmentation, encoding or the fields of Latents change
SHARD_SIZE = 64  # entries a file
ENCODING_BATCH = 8


class LatentCache:
    """A folder of safetensors shards. An entry holds the latents of one variant of one pair under a
    hash of everything that they depend on, so a stale entry is never used."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.shards: dict[str, Path] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self.refresh()

    def refresh(self) -> None:
        """List the entries that other processes have written. StableVITONError where a shard is
        damaged."""
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                with safe_open(path, framework="pt") as file:
                    self.shards |= {name.split("/")[0]: path for name in file.keys()}
            except SafetensorError as error:
                raise StableVITONError(
                    f"{path} is damaged ({error}). Delete it and run again."
                ) from error

    def __contains__(self, key: str) -> bool:
        return key in self.shards

    def __getitem__(self, key: str) -> dict[str, Tensor]:
        with safe_open(self.shards[key], framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(f"{key}/")]
            return {name.split("/")[1]: file.get_tensor(name) for name in names}

    def add(self, entries: Mapping[str, Latents]) -> None:
        """Write entries, each a batch of one, as one shard."""
        tensors = {
            f"{key}/{name}": value[0].cpu().clone(memory_format=torch.contiguous_format)
            for key, latents in entries.items()
            for name, value in latents.tensors().items()
        }
        path = self.folder / f"{compute_hash(*sorted(entries))}.safetensors"
        with replace_atomically(path) as partial:
            save_file(tensors, partial)
        self.shards |= dict.fromkeys(entries, path)


class LatentDataset(Dataset):
    """Cache entries by (pair index, epoch); the epochs take turns with a pair's variants."""

    def __init__(self, cache: LatentCache, keys: Sequence[Sequence[str]]):
        self.cache, self.keys = cache, keys

    def __getitem__(self, index: SampleIndex) -> dict[str, Tensor]:
        pair, epoch = index
        variants = self.keys[pair]
        return self.cache[variants[epoch % len(variants)]]

    def collate(self, items: Sequence[Mapping[str, Tensor]]) -> Latents:
        """A batch of the tensors that all entries have."""
        names = set.intersection(*(set(item) for item in items))
        return Latents(**{name: torch.stack([item[name] for item in items]) for name in names})


def compute_hash(*items: str | bytes) -> str:
    digest = hashlib.sha256()
    for item in items:
        data = item.encode() if isinstance(item, str) else item
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:32]


def _hash_weights(module: torch.nn.Module) -> str:
    return compute_hash(
        *(
            item
            for name, value in module.state_dict().items()
            for item in (name, value.detach().float().cpu().numpy().tobytes())
        )
    )


def _hash_files(pair: Pair) -> str:
    return compute_hash(
        *(item for kind, path in pair.files() for item in (kind, path.read_bytes()))
    )


def compute_cache_keys(
    pairs: Sequence[Pair], config: TrainConfig, model: TryOnModel, autoencoder: AutoencoderKL
) -> list[list[str]]:
    """The keys of every pair's variants."""
    frozen: list[torch.nn.Module] = [autoencoder]
    if not model.trains_embedding():
        projector = model.image_projector
        frozen += [model.clip, projector.mapper, projector.final_ln]
    settings = (
        model.config.clip,
        model.config.mapper_heads,
        autoencoder.config["scaling_factor"],
        config.height,
        config.width,
        config.augmentation,
        config.mixed_precision,
        config.seed if config.augmentation else None,
    )
    shared = compute_hash(FORMAT, *map(_hash_weights, frozen), repr(settings))
    variants = range(config.cache_variants if config.augmentation else 1)
    contents = [_hash_files(pair) for pair in tqdm(pairs, desc="hashing", mininterval=1)]
    return [
        [compute_hash(shared, content, pair.name, str(variant)) for variant in variants]
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
    """Encode the entries that the cache lacks, divided among the processes. StableVITONError where
    those of another process do not appear on this one's disk."""
    accelerator.wait_for_everyone()  # before the first writes, so that all list the same entries
    cache.refresh()
    missing = [
        (key, pair, variant)
        for pair, variants in zip(pairs, keys, strict=True)
        for variant, key in enumerate(variants)
        if key not in cache
    ]
    share = missing[accelerator.process_index :: accelerator.num_processes]
    with tqdm(total=len(share), desc="encoding", mininterval=1, disable=not share) as bar:
        for shard in _chunk(share, SHARD_SIZE):
            entries: dict[str, Latents] = {}
            for group in _chunk(shard, ENCODING_BATCH):
                samples = [load_augmented_sample(pair, config, n) for _, pair, n in group]
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


def _chunk(items: list, size: int) -> list[list]:
    return [items[first : first + size] for first in range(0, len(items), size)]
