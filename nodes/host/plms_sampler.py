"""PLMS as a SAMPLER of ComfyUI, in the method's variance-preserving space."""

from collections.abc import Callable

import comfy.model_management
import comfy.samplers
from torch import Tensor

from ...stableviton_core.plms import sample_plms
from ...stableviton_core.schedule import alphas_cumprod, start_code


class PLMSSampler(comfy.samplers.Sampler):
    """Samples over the given sigmas (the last of which is the final noise level), from the latent
    noised to timestep 999.

    ComfyUI's samples (latent + sigma * noise) are the variance-preserving ones over sqrt(abar).
    """

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
        sampling = model_wrap.inner_model.model_sampling
        timesteps = [int(t) for t in sampling.timestep(sigmas[:-1]).tolist()]
        abar, levels = alphas_cumprod().to(noise), sampling.sigmas.to(noise)
        model = comfy.samplers.KSamplerX0Inpaint(model_wrap, sigmas)
        model.latent_image, model.noise = latent_image, noise

        def predict_noise(x: Tensor, t: int) -> Tensor:
            comfy.model_management.throw_exception_if_processing_interrupted()
            sample = x / abar[t].sqrt()
            sigma = levels[t]
            denoised = model(sample, sigma.expand(len(x)), denoise_mask, **extra_args)
            return (sample - denoised) / sigma

        def report(step: int, x: Tensor, eps: Tensor) -> None:
            assert callback is not None
            a = abar[timesteps[step]]
            denoised = (x - (1 - a).sqrt() * eps) / a.sqrt()
            callback(step, denoised, x, len(timesteps))

        x = start_code(latent_image, noise)
        return sample_plms(predict_noise, x, timesteps, report if callback else None)
