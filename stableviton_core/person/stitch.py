"""Puts a working image back into the region of the photo that it was cropped from, at the photo's
scale.

Images are IMAGEs B x H x W x 3 in 0..1, masks B x H x W; those without "photo" in their name have
the region's size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..errors import ImageError
from ..image_tensors import expand_batch, find_batch_size, ramp_inwards
from ..images import blur_inside
from .crop import CropRegion, resize

MATCH_WIDTH = 0.06  # of the region's height: how far from the mask colours are compared
COARSEST = 16  # pixels of the coarsest band's shorter side


@dataclass(frozen=True)
class StitchOptions:
    """feather: pixels of the photo over which it changes into the image, inside the mask; None: one
    pixel of the working image. blend: of BLENDS. match_colour: see `match_colours`."""

    feather: int | None = None
    blend: str = "plain"
    match_colour: bool = False


def stitch(
    region: CropRegion,
    image: Tensor,
    mask: Tensor | None = None,
    options: StitchOptions = StitchOptions(),  # noqa: B008 -- immutable
) -> Tensor:
    """The photo with a working image put back into its region, at the photo's resolution and in its
    type.

    mask: what changed, of the image's aspect; its edge is made anew at the photo's resolution, and
    where it is 0, the photo's pixels are exactly kept. Without it the whole region is replaced. A
    batch of one goes with any other. ImageError for other unequal batches, a mask or an image of
    another aspect and an unknown blend.
    """
    sizes = {"crop": len(region.photo), "image": len(image)}
    batch = find_batch_size(sizes if mask is None else sizes | {"mask": len(mask)})
    photo, image = expand_batch(region.photo, batch), expand_batch(image, batch)
    _check_sizes(region, image, mask)
    if options.blend not in BLENDS:
        raise ImageError(f"A blend is one of {', '.join(BLENDS)}, got {options.blend!r}.")
    size = (region.height, region.width)
    (rows, columns), inside = region.slices_in_photo(), (slice(None), *region.slices_in_region())
    enlarged = resize(rearrange(image.float(), "b h w c -> b c h w"), *size).clamp(0, 1)
    enlarged = rearrange(enlarged, "b c h w -> b h w c")[inside]
    stitched = photo.clone()
    if mask is None:
        stitched[:, rows, columns] = enlarged.to(photo)
        return stitched
    original = photo[:, rows, columns].float()
    weight = enlarge_mask(expand_batch(mask, batch).float(), size)[inside]
    if options.match_colour:
        enlarged = match_colours(original, enlarged, weight > 0)
    scale = region.height / image.shape[1]
    feather = max(1, round(scale)) if options.feather is None else options.feather
    alpha = weight * ramp_inwards(weight > 0, feather) if feather else weight
    blended = BLENDS[options.blend](original, enlarged, alpha)
    keep = rearrange(alpha == 0, "b h w -> b h w 1")
    stitched[:, rows, columns] = torch.where(keep, photo[:, rows, columns], blended.to(photo))
    return stitched


def _check_sizes(region: CropRegion, image: Tensor, mask: Tensor | None) -> None:
    height, width = image.shape[1:3]
    if mask is not None and abs(mask.shape[2] * height / mask.shape[1] - width) > 1:
        raise ImageError(
            f"The mask is {mask.shape[2]} x {mask.shape[1]} and the image {width} x {height}: "
            "their aspects differ. Give the mask of the working image."
        )
    rounding = 1 + width / height  # the region's sides are rounded
    if abs(region.height * width / height - region.width) > rounding:
        raise ImageError(
            f"The image is {width} x {height} and its crop region {region.width} x "
            f"{region.height}: their aspects differ. Give an image of the crop's working size."
        )


def enlarge_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """B x h x w -> B x H x W, 0 where the mask's nearest pixel is 0. The edge of a mask of zeros
    and ones is smooth and sharp; other masks stay soft."""
    mask = rearrange(mask, "b h w -> b 1 h w")
    smooth = F.interpolate(mask, size=size, mode="bilinear", align_corners=False)
    covered = F.interpolate((mask > 0).to(mask), size=size, mode="nearest-exact")
    if bool(((mask == 0) | (mask == 1)).all()):
        smooth = (smooth >= 0.5).to(mask)
    return (smooth * covered)[:, 0]


def match_colours(original: Tensor, image: Tensor, inside: Tensor) -> Tensor:
    """The image with its difference from the original outside the mask, averaged over a Gaussian
    window, subtracted: near the mask's edge its tones are the original's, further in those of the
    nearest surroundings. inside: B x H x W bool."""
    sigma = max(1.0, MATCH_WIDTH * image.shape[1])
    shifted = []
    for difference, mask, item in zip(image - original, inside, image, strict=True):
        outside = (~mask).float().cpu().numpy()
        shift = blur_inside(difference.cpu().numpy(), outside, sigma)
        shifted.append(item - torch.from_numpy(shift).to(item))
    return torch.stack(shifted).clamp(0, 1)


def blend_plain(original: Tensor, image: Tensor, alpha: Tensor) -> Tensor:
    """alpha: B x H x W, 1 = image."""
    return original + rearrange(alpha, "b h w -> b h w 1") * (image - original)


def blend_bands(original: Tensor, image: Tensor, alpha: Tensor) -> Tensor:
    """`blend_plain` of images whose bands of detail were blended before, each across a width of its
    own scale: a Laplacian pyramid (Burt and Adelson, 1983)."""
    levels = max(0, int(math.log2(min(image.shape[1:3]) / COARSEST)))
    blended = []
    for item, other, weight in zip(original, image, alpha, strict=True):
        weights = _reduce((weight > 0).float().cpu().numpy(), levels)
        bands = [
            a + w[..., None] * (b - a)
            for a, b, w in zip(
                _split_bands(item.cpu().numpy(), levels),
                _split_bands(other.cpu().numpy(), levels),
                weights,
                strict=True,
            )
        ]
        merged = bands[-1]
        for band in reversed(bands[:-1]):
            merged = band + _expand(merged, band)
        blended.append(torch.from_numpy(merged).to(item))
    return blend_plain(original, torch.stack(blended).clamp(0, 1), alpha)


def _reduce(values: np.ndarray, levels: int) -> list[np.ndarray]:
    """Values and the same at a half, a quarter, ... of the size."""
    pyramid = [values]
    for _ in range(levels):
        pyramid.append(cv2.pyrDown(pyramid[-1]))
    return pyramid


def _expand(values: np.ndarray, larger: np.ndarray) -> np.ndarray:
    return cv2.pyrUp(values, dstsize=larger.shape[1::-1])


def _split_bands(values: np.ndarray, levels: int) -> list[np.ndarray]:
    """Bands of detail, finest first, and what is left; they add up to the values."""
    pyramid = _reduce(values, levels)
    details = [fine - _expand(coarse, fine) for fine, coarse in pairwise(pyramid)]
    return [*details, pyramid[-1]]


BLENDS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "plain": blend_plain,
    "multi-band": blend_bands,
}
