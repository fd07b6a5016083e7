"""Pictures into conditioning: VAE latents, the CLIP context, and the start latent."""

import comfy.model_management
import comfy.utils
import torch
from comfy.clip_vision import ClipVisionModel
from comfy.sd import VAE
from torch import Tensor

from ...stableviton_core.errors import ImageError
from ...stableviton_core.images import (
    check_person_size,
    expand_batch,
    find_batch_size,
    make_agnostic_image,
    make_keep_mask,
    pad_garment,
    resize_keep_mask,
    resize_to_person,
)
from ...stableviton_core.model.image_projector import clip_pixels
from .model import AGNOSTIC, DENSEPOSE, GARMENT, KEEP
from .network import StableVITON

Conditioning = list[list]


def condition(
    stableviton: StableVITON,
    clip_vision: ClipVisionModel,
    vae: VAE,
    person: Tensor,
    mask: Tensor,
    densepose: Tensor,
    garment: Tensor,
    agnostic: Tensor | None,
) -> tuple[Conditioning, Conditioning, dict]:
    """ComfyUI's IMAGEs (B x H x W x C, 0..1) and MASK (B x H x W) -> positive, negative, LATENT.

    ImageError where sizes or batches do not fit.
    """
    sizes = {"person": person, "mask": mask, "densepose": densepose, "garment": garment}
    if agnostic is not None:
        sizes["agnostic"] = agnostic
    batch = find_batch_size({name: len(value) for name, value in sizes.items()})
    height, width = person.shape[1:3]
    check_person_size(height, width)

    device = person.device
    densepose, garment, mask = densepose.to(device), garment.to(device), mask.to(device)
    person = _signed(person)
    mask = resize_to_person("mask", mask[:, None].float(), height, width, "nearest")[:, 0]
    densepose = resize_to_person("DensePose image", _signed(densepose), height, width, "nearest")
    garment = pad_garment(_signed(garment), height, width)
    if agnostic is None:
        pairs = find_batch_size({"person": len(person), "mask": len(mask)})
        agnostic = make_agnostic_image(expand_batch(person, pairs), expand_batch(mask, pairs))
    else:
        agnostic = resize_to_person(
            "agnostic image", _signed(agnostic.to(device)), height, width, "bilinear"
        )

    scale = stableviton.config.autoencoder.latent_scale
    progress = comfy.utils.ProgressBar(5)
    start = _encoded(vae, person, progress)
    keep = resize_keep_mask(make_keep_mask(mask)[:, None], tuple(start.shape[2:]))
    latents = {
        AGNOSTIC: _encoded(vae, agnostic, progress) * scale,
        KEEP: keep,
        DENSEPOSE: _encoded(vae, densepose, progress) * scale,
        GARMENT: _encoded(vae, garment, progress) * scale,
    }
    latents = {key: expand_batch(value, batch).clone() for key, value in latents.items()}
    context, unconditional = _contexts(stableviton, clip_vision, garment)
    progress.update(1)
    positive = [[expand_batch(context, batch).clone(), latents]]
    negative = [[expand_batch(unconditional, batch).clone(), dict(latents)]]
    return positive, negative, {"samples": expand_batch(start, batch).clone()}


def _signed(image: Tensor) -> Tensor:
    return image[..., :3].float().movedim(-1, 1) * 2 - 1  # B H W C in 0..1 -> B C H W in -1..1


def _encoded(vae: VAE, image: Tensor, progress: comfy.utils.ProgressBar) -> Tensor:
    """B x 3 x H x W in -1..1 -> the posterior's mode, unscaled."""
    comfy.model_management.throw_exception_if_processing_interrupted()
    latent = vae.encode((image.movedim(1, -1) + 1) / 2)  # B C H W -> B H W C
    progress.update(1)
    return latent


def _contexts(
    stableviton: StableVITON, clip_vision: ClipVisionModel, garment: Tensor
) -> tuple[Tensor, Tensor]:
    """Garments B x 3 x H x W in -1..1 -> context B x 1 x width, unconditional 1 x 1 x width."""
    head, expected = stableviton.image_projector, stableviton.config.clip.hidden_size
    width = clip_vision.model.vision_model.post_layernorm.weight.shape[0]
    if width != expected:
        raise ImageError(
            f"The CLIP vision model gives embeddings of {width} numbers and this checkpoint's "
            f"condition head takes {expected}. Connect the CLIP_VISION output of StableVITONLoader."
        )
    comfy.model_management.load_models_gpu([clip_vision.patcher, head])
    pixels = clip_pixels(garment.to(clip_vision.load_device), clip_vision.image_size)
    _, _, pooled = clip_vision.model.vision_model(pixels.float())
    context = head.model(pooled.to(head.load_device).float())
    offload = comfy.model_management.intermediate_device()
    return context.to(offload), head.model.learnable_vector.detach().to(offload, torch.float32)
