"""Types of numbers: how weights are kept in memory, and what they are computed in."""

import comfy.model_management
import comfy.utils
import torch

from ...stableviton_core.model.checkpoint import Checkpoint
from .model import StableVITONModelConfig

WEIGHT_DTYPES = {
    "default": None,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
}


def choose_weight_dtype(checkpoint: Checkpoint, weight_dtype: str) -> torch.dtype:
    """The type of the weights of UNet and adapter in memory. weight_dtype: one of WEIGHT_DTYPES."""
    weights = checkpoint.components["unet"]
    return WEIGHT_DTYPES[weight_dtype] or comfy.model_management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(weights),
        supported_dtypes=StableVITONModelConfig.supported_inference_dtypes,
        weight_dtype=comfy.utils.weight_dtype(weights),
    )


def choose_compute_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype | None:
    """The type that weights of a type are cast to for computing; None: they are computed with as
    they are.

    The host's choice, except for bf16 weights on a CPU that is faster with them, which the host
    computes in fp32.
    """
    if dtype == torch.bfloat16 and device.type == "cpu" and is_faster_in_bf16():
        return None
    return comfy.model_management.unet_manual_cast(
        dtype, device, StableVITONModelConfig.supported_inference_dtypes
    )


def is_faster_in_bf16() -> bool:
    """Whether the CPU multiplies matrices faster in bf16 than in fp32: with AMX, or AVX512-BF16 of
    another maker than Intel (Intel's multiplies at the rate of fp32, and the casts cost time).
    False with a torch that cannot tell."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return False
    cpu = torch.cpu.get_capabilities()
    if cpu.get("amx_bf16"):
        return True
    return bool(cpu.get("avx512_bf16")) and "Intel" not in cpu["cpu_name"]
