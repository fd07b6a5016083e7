"""The configuration in a file's metadata: written, read, and validated before anything is built."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any, TypeVar

from ..errors import MALFORMED, CheckpointError
from .config import AutoencoderConfig, ClipConfig, ModelConfig, NetworkConfig
from .layers import GROUPS

CONFIG_KEY = "stableviton.config"
AUTOENCODER_KEY = "stableviton.autoencoder"  # of a VAE on its own: AutoencoderConfig
MAX_SIZE = 1 << 16  # of any number of channels, heads or pixels
MAX_LEVELS = 8
MAX_LAYERS = {"num_res_blocks": 16, "num_hidden_layers": 128, "mapper_layers": 128}
ACTIVATIONS = ("quick_gelu", "gelu")  # of CLIP towers

Section = TypeVar("Section", NetworkConfig, ClipConfig, AutoencoderConfig)


def config_to_metadata(config: ModelConfig) -> dict[str, str]:
    return {CONFIG_KEY: json.dumps(asdict(config))}


def autoencoder_to_metadata(config: AutoencoderConfig) -> dict[str, str]:
    """Of a file that holds a VAE on its own."""
    return {AUTOENCODER_KEY: json.dumps(asdict(config))}


def config_from_metadata(metadata: Mapping[str, str] | None) -> ModelConfig:
    """The configuration in a file's metadata; the released one where there is none.

    CheckpointError where the entry exists and describes no network that can be built.
    """
    text = (metadata or {}).get(CONFIG_KEY)
    if text is None:
        return ModelConfig()
    with _explain_entry(CONFIG_KEY):
        config = _parse_config(json.loads(text))
        _check_network(config)
        _check_autoencoder(config.autoencoder)
    return config


def autoencoder_from_metadata(metadata: Mapping[str, str] | None) -> AutoencoderConfig:
    """As `config_from_metadata`, of a file that holds a VAE on its own."""
    text = (metadata or {}).get(AUTOENCODER_KEY, "{}")
    with _explain_entry(AUTOENCODER_KEY):
        config = _parse_section(AutoencoderConfig, json.loads(text))
        _check_autoencoder(config)
    return config


@contextmanager
def _explain_entry(key: str) -> Iterator[None]:
    """CheckpointError in place of what reading an entry raises."""
    try:
        yield
    except MALFORMED as error:
        raise CheckpointError(
            f"its metadata entry {key!r} does not describe a network ({type(error).__name__}: "
            f"{str(error)[:300]}). Write the file again with `python -m stableviton_core convert`."
        ) from error


def _parse_config(entries: dict[str, Any]) -> ModelConfig:
    return ModelConfig(
        network=_parse_section(NetworkConfig, entries["network"]),
        clip=_parse_section(ClipConfig, entries["clip"]),
        autoencoder=_parse_section(AutoencoderConfig, entries["autoencoder"]),
        mapper_layers=_check_integer("mapper_layers", entries["mapper_layers"]),
        mapper_heads=_check_integer("mapper_heads", entries["mapper_heads"]),
    )


def _parse_section(section: type[Section], entries: dict[str, Any]) -> Section:
    """A part of the configuration. ValueError where an entry has a wrong type or is out of range;
    TypeError for an unknown one. An entry that is left out has its default."""
    checked = dict(entries)
    for field in fields(section):
        if field.name not in entries:
            continue
        name, value = field.name, entries[field.name]
        if isinstance(field.default, tuple):
            checked[name] = _check_list(name, value)
        elif isinstance(field.default, int):
            checked[name] = _check_integer(name, value)
        elif name == "latent_scale":
            checked[name] = _check_scale(value)
        elif value not in ACTIVATIONS:
            raise ValueError(
                f"{name} is {_shorten(value)}, expected one of {', '.join(ACTIVATIONS)}"
            )
    return section(**checked)


def _check_integer(name: str, value: Any) -> int:
    limit = MAX_LAYERS.get(name, MAX_SIZE)
    if type(value) is not int or not 1 <= value <= limit:
        raise ValueError(f"{name} is {_shorten(value)}, expected a whole number of 1 to {limit}")
    return value


def _check_list(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_LEVELS:
        raise ValueError(f"{name} is {_shorten(value)}, expected a list of 1 to {MAX_LEVELS}")
    return tuple(_check_integer(name, item) for item in value)


def _check_scale(value: Any) -> float:
    if type(value) not in (int, float) or not (math.isfinite(value) and value > 0):
        raise ValueError(f"latent_scale is {_shorten(value)}, expected a finite number above 0")
    return float(value)


def _shorten(value: Any) -> str:
    """For messages; of a list only its length, for it may be nested deeply."""
    if isinstance(value, list | dict):
        return f"a {type(value).__name__} of {len(value)}"
    return repr(value)[:80]


def _check_network(config: ModelConfig) -> None:
    """ValueError where sizes do not fit each other."""
    network, clip = config.network, config.clip
    for level in range(network.levels):
        _check_channels(f"network level {level}", network.level_channels(level))
    _check_channels("model_channels", network.model_channels)
    divided = {
        "num_heads": (network.num_heads, network.model_channels),
        "num_attention_heads": (clip.num_attention_heads, clip.hidden_size),
        "mapper_heads": (config.mapper_heads, clip.hidden_size),
        "patch_size": (clip.patch_size, clip.image_size),
    }
    for name, (divisor, value) in divided.items():
        if value % divisor:
            raise ValueError(f"{name} is {divisor}, which does not divide {value}")
    latents = network.latent_channels, config.autoencoder.latent_channels
    if latents[0] != latents[1]:
        raise ValueError(f"latents of {latents[0]} channels in the UNet, {latents[1]} in the VAE")


def _check_autoencoder(config: AutoencoderConfig) -> None:
    for level, mult in enumerate(config.channel_mult):
        _check_channels(f"VAE level {level}", config.model_channels * mult)


def _check_channels(name: str, channels: int) -> None:
    if channels % GROUPS or channels > MAX_SIZE:
        raise ValueError(
            f"{name} has {channels} channels, expected a multiple of {GROUPS} up to {MAX_SIZE}"
        )
