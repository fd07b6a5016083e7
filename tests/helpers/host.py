"""Calls into the host's model that several tests make."""

import comfy.model_management
import torch
from torch import Tensor


@torch.inference_mode()
def predict_noise(patcher, x: Tensor, timesteps: Tensor, context: Tensor, garment: Tensor) -> Tensor:
    """eps of a MODEL for the network's own input: x B x 13 x h x w, timesteps B.

    apply_model takes the noisy latent in the host's scaling (over sqrt(abar)) and returns the
    denoised one; this is the way there and back.
    """
    comfy.model_management.load_models_gpu([patcher, *patcher.get_nested_additional_models()])
    patcher.pre_run()
    model = patcher.model
    sigma = model.model_sampling.sigmas[timesteps]
    scale = (sigma**2 + 1).sqrt()[:, None, None, None]
    noisy = x[:, :4] * scale
    options = {**patcher.model_options["transformer_options"], "sigmas": sigma}
    options["wrappers"] = patcher.wrappers
    denoised = model.apply_model(
        noisy, sigma, c_concat=x[:, 4:], c_crossattn=context,
        transformer_options=options, stableviton_garment=garment,
    )  # fmt: skip
    patcher.cleanup()
    return (noisy - denoised) / sigma[:, None, None, None]
