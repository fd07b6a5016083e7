"""Checkpoints: the layout of their keys, and validation.

A checkpoint is one flat state dict in the released key names, split here into components: UNet,
zero cross-attention, spatial encoder, CLIP tower, image projector and autoencoder. A .safetensors
file of this project carries its configuration in its metadata (`config_metadata`); a file without
it has the released size.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from ..errors import CheckpointError
from .config import AutoencoderConfig, ModelConfig
from .config_metadata import config_from_metadata
from .expected_shapes import Shapes, list_autoencoder_shapes, list_clip_shapes
from .image_projector import ImageProjector
from .unet import SpatialEncoder, UNet
from .weight_reader import Weights
from .zero_cross_attention import ZeroCrossAttention

LICENSE_KEY = "modelspec.license"
RELEASED_LICENSE = "CC BY-NC-SA 4.0"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# A key belongs to the first prefix that it starts with. Zero cross-attention shares the UNet's.
PREFIXES = {
    "unet": "model.diffusion_model.",
    "zero_cross_attention": "model.diffusion_model.",
    "encoder": "control_model.",
    "clip": "cond_stage_model.transformer.",
    "image_projector": "cond_stage_model.",
    "autoencoder": "first_stage_model.",
}
COMPONENTS = tuple(PREFIXES)
ZERO_CROSS_ATTENTION_MODULES = ("warp_flow_blks.", "warp_zero_convs.")
IMAGE_PROJECTOR_MODULES = ("proj_out.", "learnable_vector")  # in the file without a prefix
FIRST_CONVOLUTION = PREFIXES["unet"] + "input_blocks.0.0.weight"

# In released files, without weights: the noise schedule's buffers and unused layers.
UNUSED = frozenset({
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod", "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod", "posterior_variance", "posterior_log_variance_clipped",
    "posterior_mean_coef1", "posterior_mean_coef2", "logvar", "lastzc.weight", "lastzc.bias",
    "cond_stage_model.transformer.vision_model.embeddings.position_ids",
})  # fmt: skip


# Layout of keys


def split(weights: Mapping[str, Tensor]) -> dict[str, Weights]:
    """A checkpoint's state dict -> the state dict of each of COMPONENTS, prefixes removed.

    Keys of no component are left as they are under "unknown"; keys without weights are dropped.
    """
    components: dict[str, Weights] = {name: {} for name in (*COMPONENTS, "unknown")}
    for key, value in weights.items():
        if key not in UNUSED:
            name, short = _locate_key(key)
            components[name][short] = value
    return components


def _locate_key(key: str) -> tuple[str, str]:
    """The component that a key of a file belongs to, and the key's name there."""
    if key.startswith(IMAGE_PROJECTOR_MODULES):
        return "image_projector", key
    for name, prefix in PREFIXES.items():
        if key.startswith(prefix):
            short = key.removeprefix(prefix)
            cross = short.startswith(ZERO_CROSS_ATTENTION_MODULES)
            return "zero_cross_attention" if cross else name, short
    return "unknown", key


def full_key(component: str, key: str) -> str:
    """The key in the file of a component's entry."""
    bare = component == "image_projector" and key.startswith(IMAGE_PROJECTOR_MODULES)
    return key if bare else PREFIXES[component] + key


def join(components: Mapping[str, Mapping[str, Tensor]]) -> Weights:
    """The inverse of `split`."""
    return {
        full_key(name, key): value
        for name, weights in components.items()
        for key, value in weights.items()
    }


# Validation


@dataclass(frozen=True)
class Checkpoint:
    """A validated checkpoint: configuration, and the state dict of each of COMPONENTS."""

    config: ModelConfig
    components: dict[str, Weights]
    license: str = RELEASED_LICENSE


def parse_checkpoint(name: str, weights: Weights, metadata: Mapping[str, str] | None) -> Checkpoint:
    """Check, split and validate what was read from a file. name: of the file. CheckpointError with
    the name, what is wrong and the remedy."""
    try:
        check_kind(weights)
        config, components = config_from_metadata(metadata), split(weights)
        raise_mismatches(list_mismatches(config, components))
        del components["unknown"]
        check_finite(join(components))
    except CheckpointError as error:
        raise CheckpointError(f"{name} is not a StableVITON checkpoint: {error}") from error
    return Checkpoint(config, components, (metadata or {}).get(LICENSE_KEY, RELEASED_LICENSE))


def is_autoencoder(weights: Mapping[str, Tensor]) -> bool:
    """Whether a file is a VAE on its own, its keys without a prefix."""
    return any(key.startswith("decoder.up.") for key in weights)


def check_kind(weights: Mapping[str, Tensor]) -> None:
    """CheckpointError for the weights of another model, with its kind where that is known."""
    first = weights.get(FIRST_CONVOLUTION)
    has_encoder = any(key.startswith(PREFIXES["encoder"]) for key in weights)
    if first is None:
        if is_autoencoder(weights):
            raise CheckpointError("it is a VAE on its own. Load it with ComfyUI's VAELoader.")
        raise CheckpointError(
            f"it holds no UNet: none of its {len(weights)} entries is {FIRST_CONVOLUTION!r}. Take "
            "a StableVITON checkpoint (VITONHD.ckpt, or a file that `python -m stableviton_core "
            "convert` wrote)."
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


def list_mismatches(config: ModelConfig, components: Mapping[str, Weights]) -> list[str]:
    """Everything that keeps the result of `split` from loading strictly into the networks of a
    configuration, and keys of no component."""
    problems = [f"unexpected {key}" for key in components["unknown"]]
    problems += [f"no entry of the {name}" for name in COMPONENTS if not components[name]]
    excess = list(_list_excess_layers(config, components))
    if excess:
        return problems + excess
    with torch.device("meta"):
        modules = {
            "unet": UNet(config.network),
            "zero_cross_attention": ZeroCrossAttention(config.network),
            "encoder": SpatialEncoder(config.network),
            "image_projector": ImageProjector(config),
        }
    shapes = {name: list_module_shapes(module) for name, module in modules.items()}
    shapes["clip"] = list_clip_shapes(config.clip)
    shapes["autoencoder"] = list_autoencoder_shapes(config.autoencoder)
    for name, expected in shapes.items():
        if components[name]:
            problems += compare_shapes(expected, components[name], name)
    return problems


def list_module_shapes(module: nn.Module) -> Shapes:
    """Of its state dict."""
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def _list_excess_layers(config: ModelConfig, components: Mapping[str, Weights]) -> Iterator[str]:
    """Networks of more layers than the file has tensors: found before they are built."""
    network, autoencoder = config.network, config.autoencoder
    layers = {
        "unet": network.levels * network.num_res_blocks,
        "clip": config.clip.num_hidden_layers,
        "image_projector": config.mapper_layers,
        "autoencoder": len(autoencoder.channel_mult) * autoencoder.num_res_blocks,
    }
    for name, count in layers.items():
        if count > len(components[name]) > 0:
            yield f"{count} layers of the {name}, and {len(components[name])} entries of it"


def compare_shapes(expected: Shapes, weights: Weights, component: str | None = None) -> list[str]:
    """What differs between a network's weights and what it needs. component: for their names."""

    def name_of(key: str) -> str:
        return full_key(component, key) if component else key

    mismatches = [f"missing {name_of(key)}" for key in expected if key not in weights]
    for key, value in weights.items():
        name, shape = name_of(key), tuple(value.shape)
        if key not in expected:
            mismatches.append(f"unexpected {name}")
        elif shape != expected[key]:
            mismatches.append(f"{name} is {shape}, not {expected[key]}")
        elif not value.is_floating_point():
            mismatches.append(f"{name} has numbers of type {value.dtype}, not floating point")
    return mismatches


def select_autoencoder(weights: Weights, config: AutoencoderConfig) -> Weights:
    """The entries of a VAE of a configuration out of a state dict of its names, the attention's
    weights as 1 x 1 convolutions. CheckpointError where they are of another size, or not finite.
    """
    expected = list_autoencoder_shapes(config)
    selected = {}
    for key, value in weights.items():
        if key in expected:
            is_linear = value.ndim == 2 and len(expected[key]) == 4
            selected[key] = rearrange(value, "o i -> o i 1 1") if is_linear else value
    raise_mismatches(compare_shapes(expected, selected))
    check_finite(selected)
    return selected


def check_finite(weights: Mapping[str, Tensor]) -> None:
    """CheckpointError that names the weights with NaN or infinity. Reads all of them once."""
    damaged = [key for key, value in weights.items() if not is_finite(value)]
    if damaged:
        more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        raise CheckpointError(
            f"NaN or infinity in {', '.join(damaged[:3])}{more}. A training that diverged, or a "
            "conversion to fp16, left them. Take an earlier checkpoint, or convert the original "
            "to bf16."
        )


def is_finite(weight: Tensor) -> bool:
    """Whether it has neither NaN nor infinity."""
    if not weight.is_floating_point() or not weight.numel():
        return True
    values = weight if weight.itemsize > 1 else weight.float()  # fp8 has no minimum
    return bool(torch.stack(values.aminmax()).isfinite().all())


def raise_mismatches(mismatches: list[str]) -> None:
    """CheckpointError that lists at most ten mismatches; nothing where there are none."""
    if not mismatches:
        return
    listed = "\n".join(f"  {mismatch}" for mismatch in mismatches[:10])
    more = f"\n  and {len(mismatches) - 10} more" if len(mismatches) > 10 else ""
    raise CheckpointError(
        f"{len(mismatches)} of its entries do not fit the network:\n{listed}{more}\n"
        "The file is damaged, incomplete, or of another size than its metadata says. Download or "
        "convert it again."
    )
