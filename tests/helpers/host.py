"""Calls into the host that several tests make."""

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from .golden import fill


@torch.inference_mode()
def predict_noise(
    patcher, x: Tensor, timesteps: Tensor, context: Tensor, garment: Tensor
) -> Tensor:
    """eps of a MODEL for the network's own input: x B x 13 x h x w, timesteps B.

    apply_model takes the noisy latent in the host's scaling (over sqrt(abar)) and returns the
    denoised one; this is the way there and back.
    """
    comfy.model_management.load_models_gpu([patcher, *patcher.get_nested_additional_models()])
    patcher.pre_run()
    model = patcher.model
    sigma = model.model_sampling.sigmas[timesteps]
    noisy = x[:, :4] * (sigma**2 + 1).sqrt()[:, None, None, None]
    options = patcher.model_options["transformer_options"] | {
        "sigmas": sigma,
        "wrappers": patcher.wrappers,
    }
    denoised = model.apply_model(
        noisy,
        sigma,
        c_concat=x[:, 4:],
        c_crossattn=context,
        transformer_options=options,
        stableviton_garment=garment,
    )
    patcher.cleanup()
    return (noisy - denoised) / sigma[:, None, None, None]


def make_images(
    batch: int = 1, name: str = "", size: tuple[int, int] = (128, 96)
) -> dict[str, Tensor]:
    """IMAGEs and a MASK of one size: person, mask, densepose, garment."""
    rows, columns = size

    def image(kind: str) -> Tensor:
        return fill(f"picture/{kind}/{name}", (batch, rows, columns, 3), 0.25).add(0.5).clamp(0, 1)

    mask = torch.zeros(batch, rows, columns)
    mask[:, rows // 4 : rows // 2, columns // 4 : columns // 2] = 1
    return {
        "person": image("person"),
        "mask": mask,
        "densepose": image("densepose"),
        "garment": image("garment"),
    }


def conditioning(host, loaded: tuple, **inputs) -> tuple:
    """positive, negative, LATENT of the small checkpoint."""
    _, stableviton, clip_vision, vae = loaded
    return host.node(
        "StableVITONConditioning",
        stableviton=stableviton,
        clip_vision=clip_vision,
        vae=vae,
        **inputs,
    )


def apply(host, model, loaded: tuple, strength: float = 1.0, start: float = 0.0, end: float = 1.0):
    (patched,) = host.node(
        "StableVITONApply",
        model=model,
        stableviton=loaded[1],
        strength=strength,
        start_percent=start,
        end_percent=end,
    )
    return patched


@torch.inference_mode()
def sample(
    model,
    positive: list,
    negative: list,
    latent: dict,
    cfg: float = 1.0,
    steps: int = 2,
    sampler: str = "euler",
    scheduler: str = "normal",
    same_noise: bool = False,
    callback=None,
) -> Tensor:
    """KSampler's result. same_noise: every item of the batch has the noise of a single run."""
    samples = latent["samples"]
    noise = comfy.sample.prepare_noise(samples, 7, [0] * len(samples) if same_noise else None)
    return comfy.sample.sample(
        model,
        noise,
        steps,
        cfg,
        sampler,
        scheduler,
        positive,
        negative,
        samples,
        seed=7,
        callback=callback,
        disable_pbar=True,
    )
