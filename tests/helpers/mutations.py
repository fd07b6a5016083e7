"""Damaged and hostile variants of weight files, each a function of its number."""

import json
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from stableviton_core.model.config import ModelConfig
from stableviton_core.model.config_metadata import AUTOENCODER_KEY, CONFIG_KEY, config_to_metadata

from .checkpoints import SMALL, seeded_weights
from .loras import write_lora
from .malicious_files import (
    compress_members,
    make_code_payloads,
    make_copying_payloads,
    make_memory_payloads,
    write_payload,
    write_pickle,
)

ENDINGS = (".safetensors", ".ckpt", ".pt", ".sft")
VALUES: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 7, 31, 32, 64, 96, 1000, 2048, 65536, 10**6, 10**7, 2**31, 2**63, 10**30),
    *(0.5, 1e308, float("nan"), float("inf"), True, None, "x", "", "64", {}, {"a": 1}),
    *([], [1], [0], [-1], [1, 2, 4, 4], [1] * 9, [1] * 10**5, [[1]]),
)


class Mutator:
    """Writes variants of a few whole files into a folder. created: what no variant may create."""

    def __init__(self, folder: Path):
        self.folder, self.created = folder, folder / "created"
        self.weights = seeded_weights()
        self.wholes = self._write_wholes()

    def _write_wholes(self) -> list[bytes]:
        file = self.folder / "whole"
        contents = []
        for write in (
            lambda: save_file(self.weights, file, config_to_metadata(SMALL)),
            lambda: torch.save({"state_dict": self.weights, "epoch": 1}, file),
            lambda: torch.save(self.weights, file, _use_new_zipfile_serialization=False),
            lambda: write_lora(file),
        ):
            write()
            contents.append(file.read_bytes())
        file.unlink()
        return contents

    def write(self, number: int) -> tuple[str, Path]:
        """The category and the file of a variant."""
        chance = random.Random(number)
        category = list(CATEGORIES)[number % len(CATEGORIES)]
        file = self.folder / f"{number}{chance.choice(ENDINGS)}"
        CATEGORIES[category](self, chance, file)
        return category, file


def _flip_bytes(mutator: Mutator, chance: random.Random, file: Path) -> None:
    content = bytearray(chance.choice(mutator.wholes))
    for _ in range(chance.choice((1, 10, 1000))):
        content[chance.randrange(len(content))] = chance.randrange(256)
    file.write_bytes(content)


def _flip_the_start(mutator: Mutator, chance: random.Random, file: Path) -> None:
    content = bytearray(chance.choice(mutator.wholes))
    for _ in range(chance.choice((1, 3, 30))):
        content[chance.randrange(min(len(content), 4000))] = chance.randrange(256)
    file.write_bytes(content)


def _flip_the_end(mutator: Mutator, chance: random.Random, file: Path) -> None:
    content = bytearray(chance.choice(mutator.wholes))
    for _ in range(chance.choice((1, 3, 30))):
        content[-chance.randrange(1, min(len(content), 2000))] = chance.randrange(256)
    file.write_bytes(content)


def _cut(mutator: Mutator, chance: random.Random, file: Path) -> None:
    content = chance.choice(mutator.wholes)
    start = chance.choice((0, 0, chance.randrange(100)))
    file.write_bytes(
        content[start : chance.choice((chance.randrange(200), chance.randrange(len(content))))]
    )


def _join(mutator: Mutator, chance: random.Random, file: Path) -> None:
    file.write_bytes(b"".join(chance.choices(mutator.wholes, k=2)))


def _noise(mutator: Mutator, chance: random.Random, file: Path) -> None:
    start = chance.choice((b"", b"PK\x03\x04", b"\x80\x02", b"\x10\0\0\0\0\0\0\0{"))
    file.write_bytes(start + chance.randbytes(chance.choice((0, 1, 8, 100, 100_000))))


def _change_metadata(mutator: Mutator, chance: random.Random, file: Path) -> None:
    entries: dict[str, Any] = asdict(SMALL)
    for _ in range(chance.choice((1, 1, 2))):
        section = chance.choice(list(entries))
        target = entries[section] if isinstance(entries[section], dict) else entries
        name = chance.choice([*target, "unknown"]) if target is not entries else section
        target[name] = chance.choice(VALUES)
    save_file(mutator.weights, file, {CONFIG_KEY: json.dumps(entries)})


def _damage_metadata(mutator: Mutator, chance: random.Random, file: Path) -> None:
    text = list(config_to_metadata(chance.choice((SMALL, ModelConfig())))[CONFIG_KEY])
    for _ in range(chance.choice((1, 3))):
        text[chance.randrange(len(text))] = chance.choice('{}[]",:0193 nte\\')
    depth = chance.choice((0, 0, 100_000))
    save_file(mutator.weights, file, {CONFIG_KEY: "[" * depth + "".join(text) + "]" * depth})


def _change_tensors(mutator: Mutator, chance: random.Random, file: Path) -> None:
    weights = dict(mutator.weights)
    for key in chance.sample(sorted(weights), k=chance.choice((1, 3, 50))):
        value = weights.pop(key)
        change = chance.choice(
            ("remove", "rename", "shape", "integers", "NaN", "infinity", "empty")
        )
        if change == "rename":
            weights[key + "x"] = value
        elif change == "shape":
            weights[key] = value.flatten()[: chance.randrange(1, 5)].contiguous()
        elif change == "integers":
            weights[key] = value.to(chance.choice((torch.int64, torch.uint8, torch.bool)))
        elif change in ("NaN", "infinity"):
            weights[key] = torch.full_like(value, float("nan" if change == "NaN" else "inf"))
        elif change == "empty":
            weights[key] = torch.zeros(0, 4)
    if chance.random() < 0.7:
        save_file(weights, file, config_to_metadata(SMALL))
    else:
        torch.save({"state_dict": weights}, file)


def _put_objects(mutator: Mutator, chance: random.Random, file: Path) -> None:
    values = [None, 1, "x", [], {}, {"state_dict": 1}, torch.zeros(2), torch.zeros(2).to_sparse()]
    content = chance.choice(
        [
            chance.choice(values),
            {"state_dict": chance.choice(values)},
            {key: chance.choice(values) for key in list(mutator.weights)[:20]},
            {chance.choice((1, None, (1, 2))): torch.zeros(1)},
            {**mutator.weights, 1: torch.zeros(1)},
        ]
    )
    torch.save(content, file, _use_new_zipfile_serialization=chance.random() < 0.5)


def _put_code(mutator: Mutator, chance: random.Random, file: Path) -> None:
    payload = chance.choice(list(make_code_payloads(mutator.created).values()))
    place = chance.choice(("beside", "weight", "key"))
    write_payload(file, payload, place, zipped=chance.random() < 0.5)


def _claim_memory(mutator: Mutator, chance: random.Random, file: Path) -> None:
    payload = chance.choice(list(make_memory_payloads().values()))
    write_payload(file, payload, "weight", zipped=chance.random() < 0.5)


def _copy_in_a_pickle(mutator: Mutator, chance: random.Random, file: Path) -> None:
    write_pickle(file, chance.choice(list(make_copying_payloads().values())))


def _claim_a_large_network(mutator: Mutator, chance: random.Random, file: Path) -> None:
    """Sizes that can be built, with a few tensors of such a network at most."""
    entries: dict[str, Any] = asdict(SMALL)
    for section, name in (
        ("network", "model_channels"),
        ("network", "context_dim"),
        ("clip", "hidden_size"),
        ("clip", "intermediate_size"),
        ("autoencoder", "model_channels"),
    ):
        if chance.random() < 0.5:
            entries[section][name] = chance.choice((1024, 4096, 65536))
    prefix = chance.choice(
        ("", "first_stage_model.", "model.diffusion_model.", "cond_stage_model.")
    )
    keys = [key for key in mutator.weights if key.startswith(prefix)]
    weights = {
        key: mutator.weights[key] for key in chance.sample(keys, k=chance.choice((1, 5, 50)))
    }
    weights["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(64, 4, 3, 3)
    weights["decoder.up.0.block.0.conv1.weight"] = torch.zeros(1)
    description = {CONFIG_KEY: json.dumps(entries)}
    save_file(weights, file, description | {AUTOENCODER_KEY: json.dumps(entries["autoencoder"])})


def _compress(mutator: Mutator, chance: random.Random, file: Path) -> None:
    torch.save({"x": torch.zeros(chance.choice((10, 1 << 20)))}, file)
    compress_members(file)


def _change_lora(mutator: Mutator, chance: random.Random, file: Path) -> None:
    write_lora(file)
    weights = load_file(file)
    for key in chance.sample(sorted(weights), k=2):
        weights[key] = chance.choice((torch.zeros(0), torch.full((3, 3), float("nan"))))
    save_file(weights, file, {"stableviton.lora": "{}"} | config_to_metadata(SMALL))


CATEGORIES: dict[str, Callable[[Mutator, random.Random, Path], None]] = {
    "bytes changed": _flip_bytes,
    "bytes of the header changed": _flip_the_start,
    "bytes of the end changed": _flip_the_end,
    "cut": _cut,
    "two files in one": _join,
    "noise": _noise,
    "metadata of wrong values": _change_metadata,
    "metadata damaged": _damage_metadata,
    "tensors changed": _change_tensors,
    "objects instead of tensors": _put_objects,
    "code in a pickle": _put_code,
    "memory claimed": _claim_memory,
    "compressed": _compress,
    "copies in a pickle": _copy_in_a_pickle,
    "large network claimed": _claim_a_large_network,
    "LoRA changed": _change_lora,
}
