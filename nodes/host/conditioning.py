"""Encodes images as conditioning: VAE latents, the CLIP context, and the start latent."""

import comfy.model_management
import comfy.utils
import torch
from comfy.clip_vision import ClipVisionModel
from comfy.sd import VAE
from einops import rearrange
from torch import Tensor

from ...stableviton_core.errors import StableVITONError
from ...stableviton_core.image_tensors import (
    expand_batch,
    find_batch_size,
    make_agnostic_image,
    make_keep_mask,
    pad_garment,
    resize_keep_mask,
    resize_to_person,
    to_mask,
    to_signed,
)
from ...stableviton_core.images import check_size
from ...stableviton_core.model.image_projector import preprocess_for_clip
from .adapter import StableVITON
from .checks import check_checkpoint
from .encode_images import encode_images
from .model import AGNOSTIC, DENSEPOSE, GARMENT, KEEP, UNCONDITIONAL

Conditioning = list[list]

EMPTY_ALPHA = (64, 64)  # of the MASK that Load Image gives for an image without alpha


def encode_conditioning(
    stableviton: StableVITON,
    clip_vision: ClipVisionModel,
    vae: VAE,
    person: Tensor,
    mask: Tensor,
    densepose: Tensor,
    garment: Tensor,
    agnostic: Tensor | None = None,
) -> tuple[Conditioning, Conditioning, dict]:
    """The inputs of StableVITONConditioning, IMAGEs (B x H x W x C, 0..1) and a MASK (B x H x W) ->
    positive, negative, LATENT. ImageError where sizes or batches do not fit, StableVITONError where
    clip_vision does not fit the image projector, or nothing is to be generated."""
    device = person.device
    person, mask = to_signed(person), to_mask(mask.to(device))
    densepose, garment = to_signed(densepose.to(device)), to_signed(garment.to(device))
    inputs = {"person": person, "mask": mask, "densepose": densepose, "garment": garment}
    if agnostic is not None:
        agnostic = inputs["agnostic"] = to_signed(agnostic.to(device))
    batch = find_batch_size({name: len(value) for name, value in inputs.items()})
    keep = rearrange(make_keep_mask(mask), "b h w -> b 1 h w")
    _check_mask(mask, keep)
    height, width = person.shape[2:]
    check_size("person image", height, width, "Bring it there with Crop Person.")
    check_checkpoint(stableviton.config, person)

    keep = resize_to_person("mask", keep, height, width)
    densepose = resize_to_person("DensePose image", densepose, height, width)
    garment = pad_garment(garment, height, width)
    if agnostic is None:
        pairs = find_batch_size({"person": len(person), "mask": len(keep)})
        agnostic = make_agnostic_image(expand_batch(person, pairs), expand_batch(keep, pairs))
    else:
        agnostic = resize_to_person("agnostic image", agnostic, height, width)

    images = [person, agnostic, densepose, garment]
    sizes = [len(image) for image in images]
    progress = comfy.utils.ProgressBar(sum(sizes) + 1)
    encoded = encode_images(vae, torch.cat(images), progress)
    start, agnostic, densepose, latent_garment = encoded.split(sizes)
    scale = stableviton.config.autoencoder.latent_scale
    latents = {
        AGNOSTIC: agnostic * scale,
        KEEP: resize_keep_mask(keep, tuple(start.shape[2:])),
        DENSEPOSE: densepose * scale,
        GARMENT: latent_garment * scale,
    }
    latents = {key: expand_batch(value, batch).clone() for key, value in latents.items()}
    context, unconditional = _encode_context(stableviton, clip_vision, garment)
    progress.update(1)
    positive = [[expand_batch(context, batch).clone(), latents]]
    negative = [[expand_batch(unconditional, batch).clone(), latents | {UNCONDITIONAL: True}]]
    return positive, negative, {"samples": expand_batch(start, batch).clone()}


def _check_mask(mask: Tensor, keep: Tensor) -> None:
    """StableVITONError where a mask of the batch, B x H x W, has an empty keep-mask, all 1."""
    empty = [index for index, item in enumerate(keep, start=1) if bool(item.all())]
    if not empty:
        return
    if mask.shape[1:] == EMPTY_ALPHA and not bool(mask.any()):
        raise StableVITONError(
            f"The mask is empty and {EMPTY_ALPHA[1]} x {EMPTY_ALPHA[0]}, which is what ComfyUI "
            "makes of an image without transparency. Load a mask image with Load Image (as Mask) "
            "and the channel red, or draw the mask in the mask editor."
        )
    raise StableVITONError(
        f"The mask of person {', '.join(map(str, empty))} is empty (nothing is over one half), so "
        "nothing would be generated. It is white (1) where the garment goes: take it from Make "
        "Agnostic Mask, or draw it; a mask that is black there needs Invert Mask."
    )


def _encode_context(
    stableviton: StableVITON, clip_vision: ClipVisionModel, garment: Tensor
) -> tuple[Tensor, Tensor]:
    """Garments B x 3 x H x W in -1..1 -> context B x 1 x context_dim, unconditional context
    1 x 1 x context_dim."""
    projector, expected = stableviton.image_projector, stableviton.config.clip.hidden_size
    channels = clip_vision.model.vision_model.post_layernorm.weight.shape[0]
    if channels != expected:
        raise StableVITONError(
            f"The CLIP vision model gives embeddings of {channels} numbers and this checkpoint's "
            f"image projector takes {expected}. Connect the CLIP_VISION output of "
            "Load StableVITON."
        )
    comfy.model_management.load_models_gpu([clip_vision.patcher, projector])
    pixels = preprocess_for_clip(garment.to(clip_vision.load_device), clip_vision.image_size)
    _, _, pooled = clip_vision.model.vision_model(pixels.float())
    context = projector.model(pooled.to(projector.load_device).float())
    offload = comfy.model_management.intermediate_device()
    unconditional = projector.model.learnable_vector.detach().to(offload, torch.float32)
    return context.to(offload), unconditional
