"""Checkpoint files: which key belongs to which part, what a file's network looks like, and what to
say about a file that is something else.

A checkpoint is one flat state dict in the released key names. A .safetensors file of ours carries
its configuration in the metadata entry `stableviton.config`; a file without it has the released
size.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict

from torch import Tensor

from .config import AutoencoderConfig, ClipConfig, ModelConfig, NetworkConfig

CONFIG_KEY = "stableviton.config"

TRUNK = "model.diffusion_model."
ENCODER = "control_model."
CLIP = "cond_stage_model.transformer."
CONDITION = "cond_stage_model."
AUTOENCODER = "first_stage_model."

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

PARTS = ("trunk", "warp", "encoder", "clip", "condition", "autoencoder")

Weights = dict[str, Tensor]


class CheckpointError(ValueError):
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
    if key.startswith(TRUNK):
        short = key.removeprefix(TRUNK)
        return ("warp" if short.startswith(WARP_MODULES) else "trunk"), short
    if key.startswith(HEAD_MODULES):
        return "condition", key
    for prefix, name in (
        (ENCODER, "encoder"), (CLIP, "clip"), (CONDITION, "condition"), (AUTOENCODER, "autoencoder")
    ):  # fmt: skip
        if key.startswith(prefix):
            return name, key.removeprefix(prefix)
    return "unknown", key


def join(parts: Mapping[str, Mapping[str, Tensor]]) -> Weights:
    """The inverse of `split`."""
    prefixes = {
        "trunk": TRUNK, "warp": TRUNK, "encoder": ENCODER, "clip": CLIP, "condition": CONDITION,
        "autoencoder": AUTOENCODER,
    }  # fmt: skip
    weights = {}
    for name, part in parts.items():
        for key, value in part.items():
            bare = name == "condition" and key.startswith(HEAD_MODULES)
            weights[key if bare else prefixes[name] + key] = value
    return weights


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
            network=NetworkConfig(**_tuples(entries["network"])),
            clip=ClipConfig(**entries["clip"]),
            autoencoder=AutoencoderConfig(**_tuples(entries["autoencoder"])),
            mapper_layers=entries["mapper_layers"],
            mapper_heads=entries["mapper_heads"],
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"its metadata entry {CONFIG_KEY!r} does not describe a network ({error}). "
            "Write the file again with `python -m stableviton_core convert`."
        ) from error


def _tuples(entries: dict) -> dict:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in entries.items()}


def check_kind(weights: Mapping[str, Tensor]) -> None:
    """CheckpointError that says what a file is, where it is a known kind of another model."""
    first = weights.get(TRUNK + "input_blocks.0.0.weight")
    has_encoder = any(key.startswith(ENCODER) for key in weights)
    if first is None:
        if any(key.startswith(("encoder.down.", "decoder.up.")) for key in weights):
            raise CheckpointError("it is a VAE on its own. Load it with ComfyUI's VAELoader.")
        raise CheckpointError(
            f"it holds no UNet: none of its {len(weights)} entries is "
            f"{TRUNK + 'input_blocks.0.0.weight'!r}. Take a StableVITON checkpoint "
            "(VITONHD.ckpt, or a file that `python -m stableviton_core convert` wrote)."
        )
    channels = first.shape[1]
    kinds = {4: "an ordinary Stable Diffusion checkpoint", 9: "a Paint-by-Example or inpainting checkpoint"}
    if not has_encoder or channels in kinds:
        kind = kinds.get(channels, "a checkpoint without StableVITON's spatial encoder")
        raise CheckpointError(
            f"it is {kind}: its UNet takes {channels} channels and it has "
            f"{'a' if has_encoder else 'no'} spatial encoder (control_model). StableVITON takes 13 "
            "channels: agnostic latent, mask and DensePose beside the noisy latent. Take a "
            "StableVITON checkpoint such as VITONHD.ckpt; ordinary checkpoints load with "
            "ComfyUI's CheckpointLoaderSimple."
        )


def findings(
    part: str, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Tensor]
) -> list[str]:
    """What keeps `found` from loading strictly into a module of the `expected` shapes."""
    prefix = {"trunk": TRUNK, "warp": TRUNK, "encoder": ENCODER, "clip": CLIP,
              "autoencoder": AUTOENCODER}.get(part, "")  # fmt: skip
    problems = [f"missing {prefix}{key}" for key in expected if key not in found]
    problems += [f"unexpected {prefix}{key}" for key in found if key not in expected]
    problems += [
        f"{prefix}{key} is {tuple(found[key].shape)}, not {tuple(shape)}"
        for key, shape in expected.items()
        if key in found and tuple(found[key].shape) != tuple(shape)
    ]
    return problems


def raise_findings(problems: list[str]) -> None:
    """CheckpointError that lists at most ten of the findings, or nothing to raise."""
    if not problems:
        return
    shown = "\n".join(f"  {problem}" for problem in problems[:10])
    more = f"\n  and {len(problems) - 10} more" if len(problems) > 10 else ""
    raise CheckpointError(
        f"{len(problems)} of its entries do not fit the network:\n{shown}{more}\n"
        "The file is damaged, incomplete, or of another size than its metadata says. Download or "
        "convert it again."
    )
