"""VAE latents of images. They are kept, so that a person or garment is not encoded again when it
comes with another partner."""

import hashlib
from collections import OrderedDict
from weakref import WeakKeyDictionary

import comfy.model_management
import comfy.utils
import torch
from comfy.sd import VAE
from einops import rearrange
from torch import Tensor

LATENTS_KEPT = 64  # of each VAE, those last used; 48 KB each for 512 x 384

_latents: WeakKeyDictionary[VAE, OrderedDict[str, Tensor]] = WeakKeyDictionary()


def encode_images(vae: VAE, images: Tensor, progress: comfy.utils.ProgressBar) -> Tensor:
    """B x 3 x H x W in -1..1 -> the posterior's modes B x 4 x h x w, unscaled.

    Images that were not encoded before, each counted once, go through the VAE in one batch, which
    the host splits where memory is short. On the CPU they go one by one: a batch is hardly faster
    there and takes more memory. progress: advanced by B.
    """
    kept = _latents.setdefault(vae, OrderedDict())
    keys = [_make_key(vae, image) for image in images]
    missing = [i for i, key in enumerate(keys) if key not in kept and key not in keys[:i]]
    progress.update(len(images) - len(missing))
    latents = {key: kept[key] for key in keys if key in kept}
    count = 1 if vae.device.type == "cpu" else max(len(missing), 1)
    for start in range(0, len(missing), count):
        comfy.model_management.throw_exception_if_processing_interrupted()
        indices = missing[start : start + count]
        encoded = vae.encode(rearrange((images[indices] + 1) / 2, "b c h w -> b h w c"))
        for index, latent in zip(indices, encoded, strict=True):
            latents[keys[index]] = latent.clone()
        progress.update(len(indices))
    for key, latent in latents.items():
        kept[key] = latent
        kept.move_to_end(key)
    while len(kept) > LATENTS_KEPT:
        kept.popitem(last=False)
    return torch.stack([latents[key] for key in keys])


def _make_key(vae: VAE, image: Tensor) -> str:
    """Of the image's content and of the VAE's weights, which patches may change."""
    content = hashlib.sha256(image.cpu().numpy().tobytes())
    return f"{content.hexdigest()} {tuple(image.shape)} {vae.patcher.patches_uuid}"
