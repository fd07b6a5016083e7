"""One pass of a patched MODEL over a finished latent, to read what it attends to."""

from collections.abc import Callable
from contextlib import ExitStack

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...stableviton_core.correspondence.attention_reader import draw_common_noise, read_attention
from ...stableviton_core.correspondence.attention_summary import AttentionSummary
from ...stableviton_core.errors import StableVITONError
from ...stableviton_core.schedule import alphas_cumprod
from .model import check_model
from .patch import KEY


def read_latent_attention(
    model: ModelPatcher, positive: list, samples: Tensor, timestep: int
) -> list[AttentionSummary]:
    """What zero cross-attention attends to in one pass over samples B x 4 x h x w, unscaled, with
    noise added.

    Nothing is sampled, and the model is not changed. timestep: 0..999, the level of the noise.
    StableVITONError where the model has no zero cross-attention at this noise level.
    """
    check_model(model)
    abar = alphas_cumprod()[timestep]
    sigmas = torch.stack([((1 - abar) / abar).sqrt(), torch.zeros_like(abar)]).float()
    attention_pass = AttentionPass()
    comfy.sample.sample_custom(
        model,
        draw_common_noise(samples),
        cfg=1.0,
        sampler=attention_pass,
        sigmas=sigmas,
        positive=positive,
        negative=positive,
        latent_image=samples,
        disable_pbar=True,
    )
    if not attention_pass.summaries:
        raise StableVITONError(
            f"the model has no attention to a garment at timestep {timestep}. Connect the MODEL "
            "output of Apply StableVITON, with a strength other than 0 and a start_percent and an "
            "end_percent that include this timestep (by default 0 and 1)."
        )
    return attention_pass.summaries


class AttentionPass(comfy.samplers.Sampler):
    """A sampler that calls the model once and returns the latent as it was."""

    def __init__(self) -> None:
        self.summaries: list[AttentionSummary] = []

    def sample(
        self,
        model_wrap,
        sigmas: Tensor,
        extra_args: dict,
        callback: Callable | None,
        noise: Tensor,
        latent_image: Tensor,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        patcher = model_wrap.inner_model.current_patcher
        adapters = {
            adapter.model: None
            for key in patcher.additional_models
            if key.startswith(KEY)
            for adapter in patcher.get_additional_models_with_key(key)
        }
        size = latent_image.shape[2], latent_image.shape[3]
        noisy = latent_image + noise * sigmas[0]
        with ExitStack() as stack:
            summaries = [
                stack.enter_context(read_attention(adapter.zero_cross_attention, size))
                for adapter in adapters
            ]
            model_wrap(noisy, sigmas[0].expand(len(noisy)), **extra_args)
        self.summaries = [summary for several in summaries for summary in several]
        return latent_image
