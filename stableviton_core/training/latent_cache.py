"""Training pairs as the network takes them: encoded by the frozen VAE and CLIP, and cached on disk,
so that a step needs neither images nor the autoencoder."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
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
from ..interruption import Interrupt
from ..model.tryon_model import TryOnModel
from .augmentation import load_augmented_sample
from .config import TrainConfig
from .distributed_sampler import SampleIndex

FORMAT = "4"  # raise it when augmentation, encoding, packing or the fields of Latents change
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
            return {name.split("/")[1]: unpack(file.get_tensor(name)) for name in names}

    def add(self, entries: Mapping[str, Latents]) -> None:
        """Write entries, each a batch of one, as one shard."""
        tensors = {
            f"{key}/{name}": pack(value[0].cpu())
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

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: SampleIndex) -> dict[str, Tensor]:
        pair, epoch = index
        variants = self.keys[pair]
        return self.cache[variants[epoch % len(variants)]]

    def collate(self, items: Sequence[Mapping[str, Tensor]]) -> Latents:
        """A batch of the tensors that all entries have."""
        names = set.intersection(*(set(item) for item in items))
        return Latents(**{name: torch.stack([item[name] for item in items]) for name in names})


def pack(value: Tensor) -> Tensor:
    """An entry's tensor as it is stored: images (uint8, H x W or H x W x 3) as the bytes of a PNG
    file, which are few, others as they are."""
    if value.dtype != torch.uint8:
        return value.clone(memory_format=torch.contiguous_format)
    return torch.from_numpy(cv2.imencode(".png", value.numpy())[1])


def unpack(value: Tensor) -> Tensor:
    """The inverse of `pack`, bit for bit."""
    if value.dtype != torch.uint8:
        return value
    return torch.from_numpy(cv2.imdecode(value.numpy(), cv2.IMREAD_UNCHANGED))


def compute_hash(*items: str | bytes) -> str:
    digest = hashlib.sha256()
    for item in items:
        data = item.encode() if isinstance(item, str) else item
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:32]


def _hash_weights(module: torch.nn.Module) -> str:
    """Of the weights in half precision, in which a checkpoint of the first phase holds them, so
    that the second phase finds its entries."""
    return compute_hash(
        *(
            item
            for name, value in module.state_dict().items()
            for item in (name, value.detach().half().cpu().numpy().tobytes())
        )
    )


def _hash_files(pair: Pair) -> str:
    return compute_hash(
        *(item for kind, path in pair.files() for item in (kind, path.read_bytes()))
    )


def compute_cache_keys(
    pairs: Sequence[Pair], config: TrainConfig, model: TryOnModel, autoencoder: AutoencoderKL
) -> list[list[str]]:
    """The keys of every pair's variants. model, autoencoder: before their weights are rounded to
    bf16, which half precision changes."""
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
    interrupt: Interrupt,
) -> None:
    """Encode the entries that the cache lacks, divided among the processes. StableVITONError where
    those of another process do not appear on this one's disk. KeyboardInterrupt where the run is
    interrupted; entries that are encoded are kept."""
    accelerator.wait_for_everyone()  # before the first writes, so that all list the same entries
    cache.refresh()
    missing = [
        (key, pair, variant)
        for pair, variants in zip(pairs, keys, strict=True)
        for variant, key in enumerate(variants)
        if key not in cache
    ]
    share = missing[accelerator.process_index :: accelerator.num_processes]
    if missing and accelerator.is_main_process:
        tqdm.write(
            f"Before the first step, {len(missing)} latents are encoded into {cache.folder} "
            f"({sum(map(len, keys))} are needed: {len(pairs)} pairs x {len(keys[0])} variants)."
        )
    start, done = time.perf_counter(), 0
    with tqdm(total=len(share), desc="encoding", mininterval=1, disable=not share) as bar:
        for shard in _chunk(share, SHARD_SIZE):
            entries: dict[str, Latents] = {}
            for group in _chunk(shard, ENCODING_BATCH):
                samples = [load_augmented_sample(pair, config, n) for _, pair, n in group]
                latents = encode_samples(autoencoder, model, samples)
                entries |= {key: latents[i : i + 1] for i, (key, _, _) in enumerate(group)}
                bar.update(len(group))
                done += len(group)
                if done == len(group) < len(share) and accelerator.is_main_process:
                    seconds = (time.perf_counter() - start) / done * (len(share) - done)
                    tqdm.write(_describe_wait(seconds, len(keys[0])))
                if interrupt.requested:
                    cache.add(entries)
                    raise KeyboardInterrupt(
                        f"Stopped: {done} of {len(share)} latents are encoded and kept in "
                        f"{cache.folder}. The same command goes on there."
                    )
            cache.add(entries)
    accelerator.wait_for_everyone()
    cache.refresh()
    if any(key not in cache for key, _, _ in missing):
        raise StableVITONError(
            f"{cache.folder} lacks latents that another process encoded. cache_dir, or output, "
            "must lie on a disk that all processes share."
        )


def _describe_wait(seconds: float, variants: int) -> str:
    sooner = "--cache_latents false encodes in every step instead, so that training starts now"
    if variants > 1:
        sooner = f"--cache_variants 1 takes 1/{variants} of that; {sooner}"
    return f"Encoding takes about {_format_duration(seconds)} more. {sooner}."


def _format_duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _chunk(items: list, size: int) -> list[list]:
    return [items[first : first + size] for first in range(0, len(items), size)]
