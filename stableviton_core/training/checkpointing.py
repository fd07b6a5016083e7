"""The checkpoint folders of a training run: written completely or not at all, found again, removed
beyond a limit.

`checkpoint-00000100/` holds `stableviton.safetensors` (released key names, for the loader node),
`trained.safetensors` (the trained parameters, unrounded), `state/` (optimizer, schedule, gradient
scaler), `digests.json` (size and SHA-256 of each of these files) and, with `use_ema`,
`ema.safetensors`. A folder is written under another name and renamed when it is complete.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import MALFORMED, StableVITONError
from ..files import hash_file
from ..model.checkpoint import join
from ..model.pretrained import read_components
from ..model.weight_reader import Weights
from .distributed import take_shard
from .trainable_parameters import checkpoint_name

WEIGHTS = "stableviton.safetensors"
TRAINED = "trained.safetensors"
EMA = "ema.safetensors"
STATE = "state"
DIGESTS = "digests.json"
PREFIX = "checkpoint-"
PARTIAL = ".partial"
STEP_KEY = "stableviton.step"


def checkpoint_folder(output: Path, step: int) -> Path:
    return output / f"{PREFIX}{step:08d}"


def parse_step(folder: Path) -> int:
    return int(folder.name.removeprefix(PREFIX))


def list_checkpoints(output: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    folders = output.glob(f"{PREFIX}*")
    return sorted(f for f in folders if f.is_dir() and f.name.removeprefix(PREFIX).isdigit())


def describe_last_checkpoint(output: Path) -> str:
    """A sentence for error messages."""
    folders = list_checkpoints(output)
    return f"The last complete checkpoint is {folders[-1]}." if folders else "No checkpoint yet."


def find_checkpoint(output: Path, name: str) -> Path:
    """The folder that `--resume_from_checkpoint NAME` means: "latest", or the last one by name or
    path. StableVITONError for an earlier one, whose later ones would mix with those of the resumed
    run."""
    folders = list_checkpoints(output)
    if not folders:
        raise StableVITONError(f"{output} has no checkpoint to resume from. Leave the option out.")
    last = folders[-1]
    if name == "latest" or Path(name).name == last.name:
        return last
    if Path(name).name not in [folder.name for folder in folders]:
        raise StableVITONError(
            f"{name} is no checkpoint of {output}. It has {', '.join(f.name for f in folders)}."
        )
    has_weights = (output / Path(name).name / WEIGHTS).is_file()  # a LoRA run has none
    start = f", or give its {WEIGHTS} as --init with another --output" if has_weights else ""
    raise StableVITONError(
        f"{Path(name).name} is not the last checkpoint of {output}; that is {last.name}. Move the "
        f"later ones away{start}."
    )


def prepare_output(output: Path) -> None:
    """Create a run's folder, or delete what a killed run left unfinished in it."""
    output.mkdir(parents=True, exist_ok=True)
    for partial in output.glob(f"{PREFIX}*{PARTIAL}"):
        shutil.rmtree(partial, ignore_errors=True)


def write_checkpoint(
    accelerator: Accelerator, folder: Path, limit: int, write: Callable[[Path], None]
) -> None:
    """Have every process write its files into a partial folder, rename that, and remove the oldest
    checkpoints beyond the limit. StableVITONError in all processes where one cannot write; the
    checkpoints from before stay."""
    partial, failure = folder.with_name(folder.name + PARTIAL), None
    try:
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        accelerator.wait_for_everyone()
        try:
            write(partial)
        except torch.OutOfMemoryError:
            raise
        except (OSError, SafetensorError, RuntimeError) as error:  # torch: RuntimeError, disk full
            failure = str(error)
        _publish(accelerator, partial, folder, limit, failure)
    except OSError as error:
        raise StableVITONError(
            f"The checkpoint of step {parse_step(folder)} could not be written to {folder}: "
            f"{error}. {describe_last_checkpoint(folder.parent)} Make room, then go on with "
            "--resume_from_checkpoint latest."
        ) from error


def _publish(
    accelerator: Accelerator, partial: Path, folder: Path, limit: int, failure: str | None
) -> None:
    """Rename a complete checkpoint. OSError in all processes where one has a failure."""
    failures = [reason for reason in gather_object([failure]) if reason]
    if accelerator.is_main_process and not failures:
        try:
            write_digests(partial)
            if folder.exists():
                remove_checkpoint(folder)
            partial.replace(folder)
            for oldest in list_checkpoints(folder.parent)[:-limit]:
                remove_checkpoint(oldest)
        except OSError as error:
            failure = str(error)
    failures = failures or [reason for reason in gather_object([failure]) if reason]
    if failures:
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        raise OSError("; ".join(failures))


def write_digests(folder: Path) -> None:
    """Size and SHA-256 of all files of a checkpoint, by their path in it."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    digests = {
        file.relative_to(folder).as_posix(): {
            "size": file.stat().st_size,
            "sha256": hash_file(file),
        }
        for file in files
    }
    (folder / DIGESTS).write_text(json.dumps(digests, indent=2), encoding="utf-8")


def require_whole(folder: Path) -> None:
    """StableVITONError that names the files of a checkpoint that are not as they were written, and
    the last checkpoint before it that is whole."""
    damage = list_damage(folder)
    if not damage:
        return
    folders = list_checkpoints(folder.parent)
    earlier = [other for other in folders if parse_step(other) < parse_step(folder)]
    whole = next((other for other in reversed(earlier) if not list_damage(other)), None)
    advice = "No earlier checkpoint is whole."
    if whole:
        advice = (
            f"The last whole one is {whole}: move the later ones away and go on with "
            "--resume_from_checkpoint latest."
        )
    raise StableVITONError(f"{folder} is damaged: {'; '.join(damage)}. {advice}")


def list_damage(folder: Path) -> list[str]:
    """What of a checkpoint is not as it was written. Nothing for one of an earlier version, which
    has no digests."""
    digests = folder / DIGESTS
    if not digests.is_file():
        return []
    try:
        expected = json.loads(digests.read_text(encoding="utf-8"))
        entries = [(str(n), int(e["size"]), str(e["sha256"])) for n, e in expected.items()]
    except (OSError, *MALFORMED) as error:
        return [f"{DIGESTS} cannot be read ({type(error).__name__})"]
    damage = []
    for name, size, digest in entries:
        file = folder / name
        if not file.is_file():
            damage.append(f"{name} is missing")
        elif file.stat().st_size != size:
            damage.append(f"{name} has {file.stat().st_size} of {size} bytes")
        elif hash_file(file) != digest:
            damage.append(f"{name} has other content than was written")
    return damage


def remove_checkpoint(folder: Path) -> None:
    """Rename, then delete, so that a kill in between leaves no folder that looks complete."""
    renamed = folder.with_name(f"{folder.name}.old{PARTIAL}")
    shutil.rmtree(renamed, ignore_errors=True)
    folder.replace(renamed)
    shutil.rmtree(renamed, ignore_errors=True)


def save_parameters(file: Path, parameters: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Full tensors by parameter name. metadata: under STEP_KEY the count of optimizer steps, for an
    EMA of those that it has averaged."""
    weights = {name: value.detach().cpu().contiguous() for name, value in parameters.items()}
    save_file(weights, file, metadata)


def load_parameters(file: Path, parameters: Mapping[str, nn.Parameter]) -> None:
    """In place. StableVITONError where the file is missing or holds other names or shapes."""
    weights = _read_parameters(file, parameters)
    for name, parameter in parameters.items():
        parameter.data.copy_(take_shard(weights[name], parameter))


def load_ema(file: Path, ema: EMAModel, parameters: Mapping[str, nn.Parameter]) -> None:
    """As `load_parameters`, into the EMA of the parameters."""
    weights = _read_parameters(file, parameters)
    ema.shadow_params = [take_shard(weights[n], p).clone() for n, p in parameters.items()]
    with safe_open(file, framework="pt") as opened:
        ema.optimization_step = int(opened.metadata()[STEP_KEY])


def _read_parameters(file: Path, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    if not file.is_file():
        raise StableVITONError(
            f"{file} is not there. Resume with the use_ema and train_patterns that the run had."
        )
    weights = load_file(file)
    if weights.keys() != parameters.keys():
        differing = sorted(weights.keys() ^ parameters.keys())
        raise StableVITONError(
            f"{file} holds other trained parameters than this run, such as {differing[0]}. Resume "
            "with the patterns, train_input_conv and lora_rank that it had."
        )
    for name, parameter in parameters.items():
        if weights[name].shape != parameter.shape:
            raise StableVITONError(
                f"{file} holds {name} with the shape {tuple(weights[name].shape)}, this run needs "
                f"{tuple(parameter.shape)}. Resume with the init and lora_rank that it had."
            )
    return weights


def merge_trained(init: Path, vae: Path | None, trained: Mapping[str, Tensor]) -> Weights:
    """The weights of a checkpoint by released key, with the trained ones, by name in TryOnModel,
    replaced. Frozen weights come from the file because mixed precision has rounded those in memory.
    """
    components, _, _ = read_components(init, vae)
    return join(components) | {checkpoint_name(name)[1]: value for name, value in trained.items()}
