"""From pictures to what the network is fed: sizes, batches, the agnostic image, the garment.

Images here are B x 3 x H x W in -1..1 unless said otherwise; masks B x H x W in 0..1, 1 = change.
"""

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

from .diffusion import GREY, keep_mask
from .errors import UserError

MULTIPLE = 8


class InputError(UserError):
    """Pictures that do not fit together: what was expected, what came, what to do."""


def batch_size(sizes: dict[str, int]) -> int:
    """The common batch of named inputs; a batch of one goes with any other.

    InputError where two are longer than one and unequal.
    """
    longest = max(sizes.values())
    uneven = {name: size for name, size in sizes.items() if size not in (1, longest)}
    if uneven:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise InputError(
            f"Batches of unequal length: {listed}. Person i goes with garment i, so every input "
            f"has either 1 item, which is used for all, or {longest}."
        )
    return longest


def repeated(tensor: Tensor, batch: int) -> Tensor:
    """A batch of one, repeated; a whole batch as it is."""
    return tensor if len(tensor) == batch else tensor.expand(batch, *tensor.shape[1:])


def check_person_size(height: int, width: int) -> None:
    if height % MULTIPLE or width % MULTIPLE:
        raise InputError(
            f"The person image is {width} x {height} (width x height); both must be multiples of "
            f"{MULTIPLE}, such as 384 x 512. Bring it there with StableVITONFrame, or crop it."
        )


def fitted(name: str, image: Tensor, height: int, width: int, mode: str) -> Tensor:
    """A companion of the person image (B x C x h x w) at the person's size.

    InputError unless the aspects agree within a pixel.
    """
    h, w = image.shape[2:]
    if (h, w) == (height, width):
        return image
    if abs(w * height / h - width) > 1:
        raise InputError(
            f"The {name} is {w} x {h} (width x height) and the person image {width} x {height}: "
            f"their aspects differ. Make the {name} from the same frame as the person image."
        )
    smooth = {"align_corners": False, "antialias": True} if mode == "bilinear" else {}
    return F.interpolate(image, size=(height, width), mode=mode, **smooth)


def agnostic_image(person: Tensor, mask: Tensor) -> Tensor:
    """The person with the region to generate replaced by grey 128 (0.0039 in -1..1)."""
    keep = keep_mask(mask)[:, None]  # B H W -> B 1 H W
    return torch.where(keep == 1, person, torch.full_like(person, GREY))


def fit_garment(garment: Tensor, height: int, width: int) -> Tensor:
    """A garment picture at the person's size: padded to its aspect with the colour of its own
    border (the median), then resized; never stretched."""
    h, w = garment.shape[2:]
    if (h, w) == (height, width):
        return garment
    missing_rows = max(0, round(w * height / width) - h)
    missing_columns = max(0, round(h * width / height) - w)
    if missing_rows or missing_columns:
        garment = _padded(garment, missing_rows, missing_columns)
    return F.interpolate(
        garment, size=(height, width), mode="bilinear", align_corners=False, antialias=True
    ).clamp(-1, 1)


def _padded(image: Tensor, rows: int, columns: int) -> Tensor:
    border = torch.cat(
        [image[:, :, 0], image[:, :, -1], image[:, :, :, 0], image[:, :, :, -1]], dim=2
    )  # B C (2W + 2H)
    height, width = image.shape[2] + rows, image.shape[3] + columns
    canvas = border.median(dim=2).values[:, :, None, None].repeat(1, 1, height, width)
    top, left = rows // 2, columns // 2
    canvas[:, :, top : top + image.shape[2], left : left + image.shape[3]] = image
    return canvas


def pasted_back(person: Tensor, tryon: Tensor, mask: Tensor, feather: int) -> Tensor:
    """The try-on inside the mask, the person's own pixels outside.

    Images B x H x W x 3 in 0..1, mask B x H x W with 0 = outside, all of one size. feather: width
    in pixels of the transition, which lies inside the mask; pixels where the mask is 0 are exactly
    the person's.
    """
    alpha = mask * _inner_ramp(mask > 0, feather) if feather else mask
    alpha = alpha[..., None]  # B H W -> B H W 1
    return torch.where(alpha > 0, person + alpha * (tryon - person), person)


def _inner_ramp(inside: Tensor, feather: int) -> Tensor:
    """0..1 over `feather` pixels from the edge inwards, by the distance to the nearest outside
    pixel. inside: B x H x W bool."""
    distances = [
        torch.from_numpy(cv2.distanceTransform(item.byte().cpu().numpy(), cv2.DIST_L2, 5))
        for item in inside
    ]
    return (torch.stack(distances).to(inside.device) / (feather + 1)).clamp(0, 1)
