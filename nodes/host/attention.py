"""Which attention function StableVITON's networks run with.

ComfyUI computes attention in chunks on a CPU and on Apple's GPUs unless a flag says otherwise;
scaled_dot_product_attention gives the same numbers there in less time and memory.
"""

from collections.abc import Callable

import torch
from comfy.cli_args import args
from comfy.ldm.modules.attention import attention_pytorch, attention_sub_quad, optimized_attention
from comfy.model_patcher import ModelPatcher
from torch import Tensor


def choose_attention(device: torch.device) -> Callable[..., Tensor]:
    """The host's attention; scaled_dot_product_attention where the host computes in chunks without
    having been asked to."""
    chunked = optimized_attention is attention_sub_quad and not args.use_quad_cross_attention
    if chunked and device.type in ("cpu", "mps"):
        return attention_pytorch
    return optimized_attention


def override_attention(unet: ModelPatcher) -> None:
    """Have the host's UNet of a patcher run with `choose_attention`. An override that another pack
    sets later replaces this one."""
    if choose_attention(unet.load_device) is attention_pytorch:
        options = unet.model_options["transformer_options"]
        options["optimized_attention_override"] = _attend


def _attend(_host_attention: Callable[..., Tensor], *args, **kwargs) -> Tensor:
    return attention_pytorch(*args, **kwargs)
