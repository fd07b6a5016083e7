"""The optimizer of a run."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..errors import StableVITONError
from .config import TrainConfig


def make_optimizer(config: TrainConfig, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """AdamW, or bitsandbytes' AdamW8bit, whose state takes 2 instead of 8 bytes a parameter.
    StableVITONError where bitsandbytes is not installed."""
    settings: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": (config.adam_beta1, config.adam_beta2),
        "weight_decay": config.adam_weight_decay,
        "eps": config.adam_epsilon,
    }
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **settings)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise StableVITONError(
            f"optimizer adamw_8bit needs bitsandbytes and a CUDA GPU ({error}). Install it with "
            "`pip install bitsandbytes`, or leave out --optimizer."
        ) from error
    return AdamW8bit(parameters, **settings)
