"""Checkpoint files: which key belongs to which part, what a file's network looks like, and what to
say about a file that is something else.

A checkpoint is one flat state dict in the released key names. A .safetensors file of ours carries
its configuration in the metadata entry `stableviton.config`; a file without it has the released
size.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Tensor

from .condition import ConditionHead
from .config import AutoencoderConfig, ClipConfig, ModelConfig, NetworkConfig
from .errors import UserError
from .network import SpatialEncoder, Trunk, ZeroCrossAttention

CONFIG_KEY = "stableviton.config"

# Longest first: a key belongs to the first prefix that it starts with.
PREFIXES = {
    "trunk": "model.diffusion_model.",
    "warp": "model.diffusion_model.",  # told from the trunk by WARP_MODULES
    "encoder": "control_model.",
    "clip": "cond_stage_model.transformer.",
    "condition": "cond_stage_model.",
    "autoencoder": "first_stage_model.",
}
PARTS = tuple(PREFIXES)
FIRST_CONVOLUTION = PREFIXES["trunk"] + "input_blocks.0.0.weight"

WARP_MODULES = ("warp_flow_blks.", "warp_zero_convs.")
HEAD_MODULES = ("proj_out.", "learnable_vector")

# In released files, without weights: the noise schedule's buffers and unused layers.
UNUSED = frozenset({
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod", "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod", "posterior_variance", "posterior_log_variance_clipped",
    "posterior_mean_coef1", "posterior_mean_coef2", "logvar", "lastzc.weight", "lastzc.bias",
    "cond_stage_model.transformer.vision_model.embeddings.position_ids",
})  # fmt: skip

Weights = dict[str, Tensor]


class CheckpointError(UserError):
    """A file that is not the checkpoint it should be: what was found, and what to do."""


def split(weights: Mapping[str, Tensor]) -> dict[str, Weights]:
    """A checkpoint's state dict -> the state dict of each of PARTS, prefixes removed.

    Keys of no part are left as they are under "unknown".
    """
    parts: dict[str, Weights] = {name: {} for name in (*PARTS, "unknown")}
    for key, value in weights.items():
        if key in UNUSED:
            continue
        name, short = _place(key)
        parts[name][short] = value
    return parts


def _place(key: str) -> tuple[str, str]:
    """The part a key belongs to, and its name there."""
    if key.startswith(HEAD_MODULES):
        return "condition", key
    for name, prefix in PREFIXES.items():
        if key.startswith(prefix):
            short = key.removeprefix(prefix)
            return ("warp" if short.startswith(WARP_MODULES) else name), short
    return "unknown", key


def join(parts: Mapping[str, Mapping[str, Tensor]]) -> Weights:
    """The inverse of `split`."""
    return {
        full_key(name, key): value for name, part in parts.items() for key, value in part.items()
    }


def full_key(part: str, key: str) -> str:
    """The name in the file of a part's entry."""
    bare = part == "condition" and key.startswith(HEAD_MODULES)
    return key if bare else PREFIXES[part] + key


def config_to_metadata(config: ModelConfig) -> dict[str, str]:
    return {CONFIG_KEY: json.dumps(asdict(config))}


def config_from_metadata(metadata: Mapping[str, str] | None) -> ModelConfig:
    """The configuration in a file's metadata; the released one where there is none.

    CheckpointError where the entry is there and cannot be read.
    """
    text = (metadata or {}).get(CONFIG_KEY)
    if text is None:
        return ModelConfig()
    try:
        entries = json.loads(text)
        return ModelConfig(
            network=NetworkConfig(**tuples(entries["network"])),
            clip=ClipConfig(**entries["clip"]),
            autoencoder=AutoencoderConfig(**tuples(entries["autoencoder"])),
            mapper_layers=entries["mapper_layers"],
            mapper_heads=entries["mapper_heads"],
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"its metadata entry {CONFIG_KEY!r} does not describe a network ({error}). "
            "Write the file again with `python -m stableviton_core convert`."
        ) from error


def tuples(entries: dict) -> dict:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in entries.items()}


def is_autoencoder(weights: Mapping[str, Tensor]) -> bool:
    """Whether a file is a VAE on its own, its keys without a prefix."""
    return any(key.startswith("decoder.up.") for key in weights)


def check_kind(weights: Mapping[str, Tensor]) -> None:
    """CheckpointError that says what a file is, where it is a known kind of another model."""
    first = weights.get(FIRST_CONVOLUTION)
    has_encoder = any(key.startswith(PREFIXES["encoder"]) for key in weights)
    if first is None:
        if is_autoencoder(weights):
            raise CheckpointError("it is a VAE on its own. Load it with ComfyUI's VAELoader.")
        raise CheckpointError(
            f"it holds no UNet: none of its {len(weights)} entries is "
            f"{FIRST_CONVOLUTION!r}. Take a StableVITON checkpoint "
            "(VITONHD.ckpt, or a file that `python -m stableviton_core convert` wrote)."
        )
    channels = first.shape[1] if first.ndim == 4 else 0
    kinds = {
        4: "an ordinary Stable Diffusion checkpoint",
        9: "a Paint-by-Example or inpainting checkpoint",
    }
    if not has_encoder or channels in kinds:
        kind = kinds.get(channels, "a checkpoint without StableVITON's spatial encoder")
        raise CheckpointError(
            f"it is {kind}: its UNet takes {channels} channels and it has "
            f"{'a' if has_encoder else 'no'} spatial encoder (control_model). StableVITON takes 13 "
            "channels: agnostic latent, mask and DensePose beside the noisy latent. Take a "
            "StableVITON checkpoint such as VITONHD.ckpt; ordinary checkpoints load with "
            "ComfyUI's CheckpointLoaderSimple."
        )


def findings(part: str, module: torch.nn.Module, found: Mapping[str, Tensor]) -> list[str]:
    """What keeps a part's weights from loading strictly into a module."""
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    problems = [f"missing {full_key(part, key)}" for key in expected if key not in found]
    problems += [f"unexpected {full_key(part, key)}" for key in found if key not in expected]
    problems += [
        f"{full_key(part, key)} is {tuple(found[key].shape)}, not {shape}"
        for key, shape in expected.items()
        if key in found and tuple(found[key].shape) != shape
    ]
    return problems


def network_findings(parts: Mapping[str, Weights], config: ModelConfig) -> list[str]:
    """The findings of all parts that this package defines, and keys of no part."""
    with torch.device("meta"):
        modules = {
            "trunk": Trunk(config.network),
            "warp": ZeroCrossAttention(config.network),
            "encoder": SpatialEncoder(config.network),
            "condition": ConditionHead(config),
        }
    problems = [f"unexpected {key}" for key in parts["unknown"]]
    for name, module in modules.items():
        problems += findings(name, module, parts[name])
    return problems


def raise_findings(problems: list[str]) -> None:
    """CheckpointError that lists at most ten of the findings; nothing where there are none."""
    if not problems:
        return
    shown = "\n".join(f"  {problem}" for problem in problems[:10])
    more = f"\n  and {len(problems) - 10} more" if len(problems) > 10 else ""
    raise CheckpointError(
        f"{len(problems)} of its entries do not fit the network:\n{shown}{more}\n"
        "The file is damaged, incomplete, or of another size than its metadata says. Download or "
        "convert it again."
    )
