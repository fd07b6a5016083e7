"""One pass of a patched MODEL over a finished latent, to read what it attends to."""

from collections.abc import Callable

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...stableviton_core.correspondence.attention_reader import draw_common_noise, read_attention
from ...stableviton_core.correspondence.attention_summary import AttentionSummary
from ...stableviton_core.errors import StableVITONError
from .model import check_model
from .patch import KEY


def read_latent_attention(
    model: ModelPatcher, positive: list, latent: dict, timestep: int
) -> list[AttentionSummary]:
    """What zero cross-attention attends to in one pass over a LATENT with noise added.

    Nothing is sampled, and the model is not changed. The noise is the same for every item, so that
    a batch gives what its items give alone. timestep: 0..999, the level of the noise.
    StableVITONError where the model has no zero cross-attention at this noise level.
    """
    check_model(model)
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    sampler = AttentionPass()
    sigma = model.get_model_object("model_sampling").sigmas[timestep]
    comfy.sample.sample_custom(
        model,
        draw_common_noise(samples),
        cfg=1.0,
        sampler=sampler,
        sigmas=torch.stack([sigma, torch.zeros_like(sigma)]).cpu(),
        positive=positive,
        negative=positive,
        latent_image=samples,
        disable_pbar=True,
    )
    if not sampler.summaries:
        raise StableVITONError(
            f"the model has no attention to a garment at timestep {timestep}. Connect the MODEL "
            "output of Apply StableVITON, with a strength other than 0 and an end_percent of 1."
        )
    return sampler.summaries


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
        patcher = model_wrap.inner_model.current_patcher
        keys = [key for key in patcher.additional_models if key.startswith(KEY)]
        if keys:
            (adapter,) = patcher.get_additional_models_with_key(keys[0])
            size = latent_image.shape[2], latent_image.shape[3]
            noisy = latent_image + noise * sigmas[0]
            with read_attention(adapter.model.zero_cross_attention, size) as self.summaries:
                model_wrap(noisy, sigmas[0].expand(len(noisy)), **extra_args)
        return latent_image
