"""Whether a resumed run is the one that wrote the checkpoint: its configuration, data and initial
weights, which every checkpoint keeps."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..dataset.pairs import Pair
from ..errors import StableVITONError
from ..files import hash_file
from .config import TrainConfig
from .latent_cache import compute_hash

TRAINING_KEY = "stableviton.training"  # metadata: TrainConfig as JSON, files by name only
DATA_KEY = "stableviton.data"  # hash of the names and sizes of the training files
INIT_KEY = "stableviton.init"  # hash of the files with the initial weights
JOINT_BATCH_KEY = "stableviton.joint_batch_size"

# What a resumed run may change without a word. Files are compared by content; batch sizes by their
# product over accumulation steps and processes.
CHANGEABLE = frozenset({
    "data", "init", "output", "vae", "cache_dir", "dataloader_num_workers",
    "max_train_steps", "learning_rate", "adam_weight_decay", "max_grad_norm",
    "train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "torch_compile",
    "checkpointing_steps", "checkpoints_total_limit", "save_dtype",
    "validation_steps", "validation_pairs", "validation_pairing", "validation_sampler",
    "validation_guidance", "num_validation_images", "num_inference_steps",
    "resume_from_checkpoint", "allow_changed",
})  # fmt: skip
FILES = {DATA_KEY: "the data", INIT_KEY: "the initial weights (init, vae)"}


def describe_run(
    config: TrainConfig, pairs: Sequence[Pair], joint_batch_size: int
) -> dict[str, str]:
    """Metadata for a run's checkpoints. Paths without their folders, for checkpoints are shared."""
    files = (path for pair in pairs for _, path in pair.files())
    settings = asdict(config)
    for name in ("resume_from_checkpoint", "allow_changed"):  # of one part of a run
        del settings[name]
    initial = [path for path in (config.init, config.vae) if path]
    return {
        TRAINING_KEY: json.dumps(settings, default=lambda path: path.name),
        DATA_KEY: compute_hash(*(f"{file.name} {file.stat().st_size}" for file in files)),
        INIT_KEY: compute_hash(*map(hash_file, initial)),
        JOINT_BATCH_KEY: str(joint_batch_size),
    }


def require_same_run(file: Path, run: Mapping[str, str], allow_changed: bool) -> list[str]:
    """The differences between the run that wrote a file of parameters and this one (`describe_run`)
    beyond CHANGEABLE. StableVITONError that lists them, unless they are allowed."""
    with safe_open(file, framework="pt") as opened:
        saved = opened.metadata() or {}
    differences = list_differences(saved, run)
    if differences and not allow_changed:
        listing = "\n".join(f"  {difference}" for difference in differences)
        raise StableVITONError(
            f"{file.parent} is of a run with other settings (was -> is):\n{listing}\nResume with "
            "those of the checkpoint, start another run with --init and --output, or change them "
            "deliberately with --allow_changed."
        )
    return differences


def list_differences(saved: Mapping[str, str], run: Mapping[str, str]) -> list[str]:
    """Settings beyond CHANGEABLE that differ, as "name: was -> is". Entries that a checkpoint of an
    earlier version lacks are left out; a setting that it lacks had its default."""
    was, now = (json.loads(entries.get(TRAINING_KEY, "{}")) for entries in (saved, run))
    defaults = json.loads(json.dumps(_list_defaults())) if was else now
    differences = [
        f"{name}: {json.dumps(before)} -> {json.dumps(value)}"
        for name, value in now.items()
        if name not in CHANGEABLE and (before := was.get(name, defaults.get(name))) != value
    ]
    before, value = saved.get(JOINT_BATCH_KEY), run[JOINT_BATCH_KEY]
    if before not in (None, value):
        differences.append(f"joint batch size: {before} -> {value}")
    differences += [
        f"{name}: other content than before"
        for key, name in FILES.items()
        if saved.get(key) not in (None, run[key])
    ]
    return differences


def _list_defaults() -> dict[str, Any]:
    return {
        name: field.default
        for name, field in TrainConfig.__dataclass_fields__.items()
        if name not in CHANGEABLE
    }
