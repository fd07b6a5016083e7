"""ComfyUI's IMAGE and MASK, batches and sizes, the agnostic image, the keep-mask, pasting back.

IMAGE is B x H x W x C in 0..1, MASK B x H x W in 0..1, 1 = change. Signed images are B x 3 x H x W
in -1..1, as the network takes them; arrays H x W x 3 uint8, as `images` decodes them.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from .errors import ImageError
from .images import GREY_LEVEL

GREY = GREY_LEVEL / 127.5 - 1  # of the agnostic region, in -1..1


def to_rgb(images: Tensor) -> Tensor:
    """IMAGE with 1 to 4 channels, of any floating-point type -> B x H x W x 3 float32: grey
    expanded, alpha composited over white.

    ImageError for other shapes and types, for an empty image, and for NaN and infinity.
    """
    colours, alpha = split_alpha(images)
    return colours if alpha is None else composite_over_white(colours, alpha)


def composite_over_white(colours: Tensor, alpha: Tensor) -> Tensor:
    """B x H x W x 3 and alpha B x H x W in 0..1 -> B x H x W x 3; a batch of one goes with any."""
    alpha = rearrange(alpha, "b h w -> b h w 1")
    return colours * alpha + (1 - alpha)


def split_alpha(images: Tensor) -> tuple[Tensor, Tensor | None]:
    """As `to_rgb`, with the alpha channel B x H x W by itself; None where there is none."""
    if images.ndim != 4 or images.shape[-1] not in (1, 2, 3, 4) or 0 in images.shape:
        raise ImageError(
            f"An image is batch x height x width x 1 to 4 channels, got {_describe_shape(images)}."
        )
    images = _to_finite("image", images)
    colours = 3 if images.shape[-1] > 2 else 1
    alpha = images[..., colours] if images.shape[-1] > colours else None
    return images[..., :colours].expand(*images.shape[:-1], 3), alpha


def to_mask(mask: Tensor, name: str = "mask") -> Tensor:
    """MASK, B x H x W, H x W, B x 1 x H x W or B x H x W x 1, of any floating-point type or bool ->
    B x H x W float32. ImageError for other shapes and types, for an empty mask, and for NaN and
    infinity. name: for it."""
    if mask.ndim == 2:
        mask = rearrange(mask, "h w -> 1 h w")
    elif mask.ndim == 4 and mask.shape[1] == 1:
        mask = rearrange(mask, "b 1 h w -> b h w")
    elif mask.ndim == 4 and mask.shape[3] == 1:
        mask = rearrange(mask, "b h w 1 -> b h w")
    if mask.ndim != 3 or 0 in mask.shape:
        raise ImageError(
            f"The {name} is {_describe_shape(mask)}, expected batch x height x width. An image "
            "becomes a mask with Convert Image to Mask."
        )
    return _to_finite(name, mask.float() if mask.dtype == torch.bool else mask)


def _to_finite(name: str, values: Tensor) -> Tensor:
    """float32. ImageError for integers, NaN and infinity."""
    if not values.is_floating_point():
        raise ImageError(f"The {name} has numbers of type {values.dtype}, expected 0..1.")
    values = values.float()
    if not bool(torch.stack(values.aminmax()).isfinite().all()):
        raise ImageError(
            f"The {name} has NaN or infinity. The node that made it failed: where it is VAE "
            "Decode in fp16, run the VAE in fp32 (--fp32-vae)."
        )
    return values


def _describe_shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a single number"


def to_channels_first(images: Tensor) -> Tensor:
    """IMAGE -> B x 3 x H x W in 0..1."""
    return rearrange(to_rgb(images), "b h w c -> b c h w")


def to_signed(images: Tensor) -> Tensor:
    """IMAGE -> B x 3 x H x W float32 in -1..1."""
    return to_channels_first(images) * 2 - 1


def to_arrays(images: Tensor) -> list[np.ndarray]:
    """IMAGE -> arrays H x W x 3 uint8."""
    levels = (to_rgb(images).clamp(0, 1) * 255).round()
    return list(levels.to("cpu", torch.uint8).numpy())


def to_images(arrays: Sequence[np.ndarray]) -> Tensor:
    """Arrays of one size -> IMAGE."""
    return torch.from_numpy(np.stack(arrays)).float() / 255


def to_masks(arrays: Sequence[np.ndarray]) -> Tensor:
    """Arrays H x W of one size, bool or 0..1 -> MASK."""
    return torch.from_numpy(np.stack(arrays).astype(np.float32))


def find_batch_size(sizes: dict[str, int]) -> int:
    """The common batch size of named inputs, where a batch of one goes with any other.

    ImageError for two batches of more than one item and unequal length.
    """
    longest = max(sizes.values())
    uneven = {name: size for name, size in sizes.items() if size not in (1, longest)}
    if uneven:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ImageError(
            f"Batches of unequal length: {listed}. Person i goes with garment i, so every input "
            f"has either 1 item, which is used for all, or {longest}."
        )
    return longest


def expand_batch(tensor: Tensor, batch: int) -> Tensor:
    """A batch of one repeated to `batch` items; a batch of that size is returned unchanged."""
    return tensor if len(tensor) == batch else tensor.expand(batch, *tensor.shape[1:])


def resize_to_person(
    name: str,
    image: Tensor,
    height: int,
    width: int,
    mode: str = "bilinear",
    antialias: bool = False,
) -> Tensor:
    """B x C x h x w -> B x C x height x width, for an input that belongs to the person image.

    name: of the input, for the error. mode: "bilinear" or "nearest". antialias: for bilinear; the
    released data path has none. ImageError unless the aspects agree within a pixel.
    """
    h, w = image.shape[2:]
    if (h, w) == (height, width):
        return image
    if abs(w * height / h - width) > 1:
        raise ImageError(
            f"The {name} is {w} x {h} (width x height) and the person image {width} x {height}: "
            f"their aspects differ. Make the {name} from the same crop as the person image."
        )
    align_corners = False if mode == "bilinear" else None
    return F.interpolate(
        image, size=(height, width), mode=mode, align_corners=align_corners, antialias=antialias
    )


def resize_image_to_person(name: str, image: Tensor, height: int, width: int) -> Tensor:
    """`resize_to_person` of IMAGE -> IMAGE in RGB, with antialiasing."""
    resized = resize_to_person(name, to_channels_first(image), height, width, antialias=True)
    return rearrange(resized, "b c h w -> b h w c")


def resize_mask_to_person(name: str, mask: Tensor, height: int, width: int) -> Tensor:
    """`resize_to_person` of B x h x w -> B x height x width, without blending."""
    mask = rearrange(to_mask(mask, name), "b h w -> b 1 h w")
    return resize_to_person(name, mask, height, width, "nearest")[:, 0]


def pair_with_masks(images: Tensor, mask: Tensor | None) -> tuple[Tensor, list[np.ndarray | None]]:
    """IMAGE and an optional MASK -> the images, and of each its mask at its size, H x W float32.

    A batch of one goes with any other. ImageError for other unequal batches and another aspect.
    """
    if mask is None:
        return images, [None] * len(images)
    mask = resize_mask_to_person("mask", mask, *images.shape[1:3])
    batch = find_batch_size({"photo": len(images), "mask": len(mask)})
    return expand_batch(images, batch), list(expand_batch(mask, batch).cpu().numpy())


def shrink(images: Tensor, longer_side: int) -> Tensor:
    """IMAGE whose longer side has at most so many pixels."""
    scale = longer_side / max(images.shape[1:3])
    if scale >= 1:
        return images
    size = [max(1, round(side * scale)) for side in images.shape[1:3]]
    smaller = F.interpolate(rearrange(images, "b h w c -> b c h w"), size, mode="area")
    return rearrange(smaller, "b c h w -> b h w c")


def pad_garment(garment: Tensor, height: int, width: int) -> Tensor:
    """Garment B x 3 x h x w in -1..1 -> B x 3 x height x width: padded to the person's aspect, then
    resized as the other inputs; never stretched."""
    if garment.shape[2:] == (height, width):
        return garment
    garment = pad_to_aspect(garment, height, width)
    return F.interpolate(garment, size=(height, width), mode="bilinear", align_corners=False)


def pad_to_aspect(image: Tensor, height: int, width: int) -> Tensor:
    """B x C x h x w of any size -> with the median of its border around it, so that it has the
    aspect of height x width."""
    h, w = image.shape[2:]
    missing_rows = max(0, round(w * height / width) - h)
    missing_columns = max(0, round(h * width / height) - w)
    if missing_rows or missing_columns:
        return _pad_with_border_colour(image, missing_rows, missing_columns)
    return image


def _pad_with_border_colour(image: Tensor, rows: int, columns: int) -> Tensor:
    border = torch.cat(
        [image[:, :, 0], image[:, :, -1], image[:, :, :, 0], image[:, :, :, -1]], dim=2
    )
    height, width = image.shape[2] + rows, image.shape[3] + columns
    canvas = repeat(border.median(dim=2).values, "b c -> b c h w", h=height, w=width).clone()
    top, left = rows // 2, columns // 2
    canvas[:, :, top : top + image.shape[2], left : left + image.shape[3]] = image
    return canvas


def make_keep_mask(mask: Tensor) -> Tensor:
    """MASK (1 = change) -> keep-mask (1 = keep), binarised at 128 of 255. This comes before any
    resizing; a resized keep-mask has soft edges and is never binarised again.

    The threshold is 127.5 / 255, so that 128 / 255 in half precision still counts as change.
    """
    return (mask < 127.5 / 255).to(mask)


def resize_keep_mask(keep: Tensor, size: tuple[int, ...]) -> Tensor:
    """Keep-mask B x 1 x H x W at a latent's size: bilinear without antialiasing."""
    return F.interpolate(keep, size=size, mode="bilinear", align_corners=False)


def make_agnostic_image(person: Tensor, keep: Tensor) -> Tensor:
    """The person B x 3 x H x W in -1..1, grey 128 where the keep-mask B x 1 x H x W is not 1."""
    return torch.where(keep == 1, person, torch.full_like(person, GREY))


def paste_back(person: Tensor, tryon: Tensor, mask: Tensor, feather: int) -> Tensor:
    """The try-on inside the mask, exactly the person's pixels where the mask is 0.

    IMAGEs and a MASK of one size and batch. feather: width of the transition in pixels; it lies
    inside the mask.
    """
    alpha = mask * ramp_inwards(mask > 0, feather) if feather else mask
    alpha = rearrange(alpha, "b h w -> b h w 1")
    return torch.where(alpha > 0, person + alpha * (tryon - person), person)


def ramp_inwards(inside: Tensor, feather: int) -> Tensor:
    """B x H x W bool -> B x H x W, from 0 outside to 1 beyond `feather` pixels from the edge."""
    distances = [
        torch.from_numpy(cv2.distanceTransform(item.byte().cpu().numpy(), cv2.DIST_L2, 5))
        for item in inside
    ]
    return (torch.stack(distances).to(inside.device) / (feather + 1)).clamp(0, 1)
