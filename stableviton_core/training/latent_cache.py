"""Latents on disk, so that a step needs neither pictures nor the autoencoder."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import StableVITONError
from ..files import replace_atomically
from .dataset import Pair
from .latents import Latents


class LatentCache:
    """Shards of safetensors in a folder. An entry is the latents of one variant of one pair; its
    key is a hash of everything that they depend on, so a stale entry is never found."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.shards: dict[str, Path] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self.refresh()

    def refresh(self) -> None:
        """Find what other processes have written. StableVITONError where a shard is damaged."""
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
        """Write entries, each a batch of one, as one shard under another name, then rename."""
        tensors = {
            f"{key}/{name}": value[0].cpu().clone(memory_format=torch.contiguous_format)
            for key, latents in entries.items()
            for name, value in latents.tensors().items()
        }
        path = self.folder / f"{hashed(*sorted(entries))}.safetensors"
        with replace_atomically(path) as partial:
            save_file(tensors, partial)
        self.shards |= dict.fromkeys(entries, path)


def hashed(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:32]


def weights_hash(module: torch.nn.Module) -> str:
    return hashed(
        *(
            item
            for name, value in module.state_dict().items()
            for item in (name, value.detach().float().cpu().numpy().tobytes())
        )
    )


def pair_hash(pair: Pair) -> str:
    """Of the contents of a pair's files."""
    return hashed(*(item for kind, path in pair.files() for item in (kind, path.read_bytes())))
