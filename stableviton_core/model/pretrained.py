"""Model weights in files: loading a pretrained checkpoint to train from, and writing one in the
released key names."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from diffusers import AutoencoderKL
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..errors import StableVITONError
from ..files import replace_atomically
from .checkpoint import DTYPES, LICENSE_KEY, parse_checkpoint, split
from .config import ModelConfig
from .config_metadata import config_to_metadata
from .tryon_model import TryOnModel
from .vae import load_autoencoder
from .weight_reader import Weights, read_weights


def load_model(path: Path, vae: Path | None = None) -> tuple[TryOnModel, AutoencoderKL, str]:
    """Model and autoencoder of a checkpoint in float32, and its license. vae: a file whose VAE
    takes the place of the checkpoint's. CheckpointError where a file holds something else."""
    components, config, license = read_components(path, vae)
    model = TryOnModel(config)
    model.load_components(components)
    autoencoder = load_autoencoder(config.autoencoder, components["autoencoder"], vae or path)
    return model, autoencoder.eval(), license


def read_components(
    path: Path, vae: Path | None = None
) -> tuple[dict[str, Weights], ModelConfig, str]:
    """The components of a checkpoint in their stored types, its configuration and its license; both
    licenses where the VAE's file has another one."""
    checkpoint = parse_checkpoint(str(path), *read_weights(path))
    components, license = checkpoint.components, checkpoint.license
    if vae is not None:
        weights, metadata = read_weights(vae)
        components["autoencoder"] = split(weights)["autoencoder"] or weights
        license = " AND ".join(dict.fromkeys([license, metadata.get(LICENSE_KEY, license)]))
    return components, checkpoint.config, license


@contextmanager
def explain_unwritable(file: Path) -> Iterator[None]:
    """StableVITONError with the file's name in place of what writing it raises."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, SafetensorError) as error:
        raise StableVITONError(f"{file} could not be written: {error}") from error


def save_weights(
    file: Path,
    weights: Mapping[str, Tensor],
    config: ModelConfig,
    dtype: str,
    metadata: dict[str, str],
) -> None:
    """Write a checkpoint that the loader node takes. weights: by released key. dtype: of DTYPES."""
    converted = {
        key: value.detach().to("cpu", DTYPES[dtype]).contiguous() for key, value in weights.items()
    }
    with replace_atomically(file) as partial:
        save_file(converted, partial, config_to_metadata(config) | metadata)
