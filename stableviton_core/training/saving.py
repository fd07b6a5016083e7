"""Checkpoints of a run: what the node loads and what a resumption needs, never half-written.

`checkpoint-00000100/` holds `stableviton.safetensors` (released key names, for ComfyUI), `state/`
(accelerate's: weights, optimizer, schedule) and, with averaging, `average.safetensors`. It is
written under another name and renamed when it is complete.
"""

import shutil
from pathlib import Path

from accelerate import Accelerator
from diffusers import AutoencoderKL
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..checkpoint import CheckpointError, config_to_metadata, join, split
from ..config import ModelConfig
from ..errors import UserError
from ..files import DTYPES, RELEASED_LICENCE, checked_parts, read_weights
from .autoencoder import build_autoencoder, load_ldm, to_ldm
from .model import TryOnModel

WEIGHTS = "stableviton.safetensors"
AVERAGE = "average.safetensors"
STATE = "state"
PREFIX = "checkpoint-"
PARTIAL = ".partial"
LICENCE_KEY = "modelspec.license"
STEP_KEY = "stableviton.step"


class TrainingError(UserError):
    """A run that cannot go on: at which step, why, and what is kept."""


def load_model(path: Path, vae: Path | None = None) -> tuple[TryOnModel, AutoencoderKL, str]:
    """Model and autoencoder of a checkpoint in float32, and its licence. CheckpointError where it
    holds something else."""
    weights, metadata = read_weights(path)
    try:
        config, found = checked_parts(weights, metadata)
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be trained: {error}") from error
    parts = {name: _single(part) for name, part in found.items()}
    model, autoencoder = TryOnModel(config), build_autoencoder(config.autoencoder)
    model.load_parts(parts)
    try:
        load_ldm(autoencoder, parts["autoencoder"] if vae is None else _read_vae(vae))
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{vae or path} holds no VAE of this size ({error}).") from error
    return model, autoencoder.eval(), metadata.get(LICENCE_KEY, RELEASED_LICENCE)


def _single(part: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        key: value.float() if value.is_floating_point() else value for key, value in part.items()
    }


def _read_vae(path: Path) -> dict[str, Tensor]:
    weights, _ = read_weights(path)
    return _single(split(weights)["autoencoder"] or weights)


def save_weights(
    file: Path, model: TryOnModel, autoencoder: AutoencoderKL, config: ModelConfig,
    dtype: str, metadata: dict[str, str],
) -> None:  # fmt: skip
    """What the node loads. Written under another name, then renamed."""
    weights = join(model.parts() | {"autoencoder": to_ldm(autoencoder)})
    typed = {
        key: value.detach().to("cpu", DTYPES[dtype]).contiguous() for key, value in weights.items()
    }
    partial = file.with_suffix(PARTIAL)
    try:
        save_file(typed, partial, config_to_metadata(config) | metadata)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def save_average(file: Path, average: EMAModel, names: list[str]) -> None:
    weights = {n: p.cpu().contiguous() for n, p in zip(names, average.shadow_params, strict=True)}
    save_file(weights, file, {STEP_KEY: str(average.optimization_step)})


def load_average(file: Path, average: EMAModel, names: list[str]) -> None:
    weights = load_file(file)
    average.shadow_params = [
        weights[n].to(p) for n, p in zip(names, average.shadow_params, strict=True)
    ]
    with safe_open(file, framework="pt") as opened:
        average.optimization_step = int(opened.metadata()[STEP_KEY])


def folder_of(output: Path, step: int) -> Path:
    return output / f"{PREFIX}{step:08d}"


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix(PREFIX))


def complete(output: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    folders = output.glob(f"{PREFIX}*")
    return sorted(f for f in folders if f.is_dir() and f.name.removeprefix(PREFIX).isdigit())


def resumed_from(output: Path, wanted: str) -> Path:
    """The folder that `--resume_from_checkpoint` means."""
    if wanted != "latest":
        folder = Path(wanted)
        if not (folder / STATE).is_dir():
            raise TrainingError(f"{folder} is not a checkpoint of this trainer: it has no {STATE}/")
        return folder
    folders = complete(output)
    if not folders:
        raise TrainingError(f"{output} has no checkpoint to resume from. Leave the option out.")
    return folders[-1]


def begin(accelerator: Accelerator, folder: Path) -> Path:
    """An empty folder to write a checkpoint into, for `finish` to put in its place."""
    partial = folder.with_name(folder.name + PARTIAL)
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    return partial


def finish(accelerator: Accelerator, partial: Path, limit: int) -> None:
    """Give a complete checkpoint its name, then remove the oldest beyond the limit."""
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return
    folder = partial.with_name(partial.name.removesuffix(PARTIAL))
    if folder.exists():
        _remove(folder)
    partial.replace(folder)
    for old in complete(folder.parent)[:-limit]:
        _remove(old)


def _remove(folder: Path) -> None:
    """Renamed first, so that a kill on the way leaves no checkpoint that only looks complete."""
    going = folder.with_name(folder.name + PARTIAL)
    shutil.rmtree(going, ignore_errors=True)
    folder.replace(going)
    shutil.rmtree(going)


def remove_partial(output: Path) -> None:
    """What a killed run left behind."""
    for partial in output.glob(f"{PREFIX}*{PARTIAL}"):
        shutil.rmtree(partial, ignore_errors=True)


WRITE_ERRORS = (OSError, SafetensorError, RuntimeError)  # torch reports a full disk by the last
