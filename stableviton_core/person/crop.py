"""Crops a photo of any size to the working size and stitches the result back into the photo.

Images are IMAGEs B x H x W x 3 in 0..1, masks B x H x W.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..errors import ImageError
from ..image_tensors import expand_batch, find_batch_size
from ..images import check_size

MARGIN = 0.08  # around the person, of the box's longer side
MAX_PIXELS = 2**27  # of a crop region

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the photo


@dataclass(frozen=True)
class CropRegion:
    """Rows top..top + height and columns left..left + width of a photo (B x H x W x 3, unchanged).
    Those outside the photo are padding."""

    photo: Tensor
    top: int
    left: int
    height: int
    width: int

    def slices_in_photo(self) -> tuple[slice, slice]:
        """Rows and columns of the photo that the region covers."""
        rows, columns = self.photo.shape[1:3]
        return (
            slice(max(0, self.top), min(rows, self.top + self.height)),
            slice(max(0, self.left), min(columns, self.left + self.width)),
        )

    def slices_in_region(self) -> tuple[slice, slice]:
        """Rows and columns of the region that lie within the photo."""
        rows, columns = self.slices_in_photo()
        return (
            slice(rows.start - self.top, rows.stop - self.top),
            slice(columns.start - self.left, columns.stop - self.left),
        )


def find_crop_region(
    photo: Tensor, height: int, width: int, person: Box | None = None
) -> CropRegion:
    """The region of the aspect height : width around a person's box, or around the whole photo.

    It stays within the photo as far as it can. ImageError for a size that is no multiple of 8, an
    empty box and a region of more than MAX_PIXELS.
    """
    rows, columns = photo.shape[1:3]
    check_size("working size", height, width)
    left, top, right, bottom = person or (0, 0, columns, rows)
    if not (right > left and bottom > top and right > 0 and bottom > 0):
        raise ImageError(f"The person's box is empty or outside the photo: {person}.")
    margin = MARGIN * max(right - left, bottom - top) if person else 0.0
    left, top = max(0, left - margin), max(0, top - margin)
    right, bottom = min(columns, right + margin), min(rows, bottom + margin)
    exact_height = max(bottom - top, (right - left) * height / width, 1)
    region_height = round(exact_height)
    region_width = max(1, round(exact_height * width / height))
    if region_height * region_width > MAX_PIXELS:
        raise ImageError(
            f"The photo is {columns} x {rows}. A region of the aspect {width} x {height} around it "
            f"would be {region_width} x {region_height}; crop the photo to the person first."
        )
    return CropRegion(
        photo=photo,
        top=_find_start((top + bottom) / 2, region_height, rows),
        left=_find_start((left + right) / 2, region_width, columns),
        height=region_height,
        width=region_width,
    )


def _find_start(centre: float, length: int, available: int) -> int:
    """Start of an interval around a centre, moved to lie within 0..available; an interval that is
    longer is centred on it."""
    if length >= available:
        return (available - length) // 2
    return int(min(max(0, round(centre - length / 2)), available - length))


def crop(region: CropRegion, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The working image B x height x width x 3 and the padding mask B x height x width, 1 = outside
    the photo. Padding repeats the photo's border."""
    rows, columns = region.slices_in_photo()
    inside_rows, inside_columns = region.slices_in_region()
    sides = (
        inside_columns.start,
        region.width - inside_columns.stop,
        inside_rows.start,
        region.height - inside_rows.stop,
    )
    visible = rearrange(region.photo[:, rows, columns], "b h w c -> b c h w")
    image = _resize(F.pad(visible, sides, mode="replicate"), height, width)
    padding = F.pad(torch.zeros_like(visible[:, :1]), sides, value=1.0)
    padding = F.interpolate(padding, size=(height, width), mode="nearest")[:, 0]
    return rearrange(image.clamp(0, 1), "b c h w -> b h w c"), padding


def stitch(region: CropRegion, image: Tensor, mask: Tensor | None = None) -> Tensor:
    """The photo with a working image put back into its region, at the photo's resolution.

    mask: what changed, of the image's size; where it is 0, the photo's pixels are exactly kept.
    Without it the whole region is replaced. A batch of one goes with any other. ImageError for
    other unequal batches, a mask of another size and an image of another aspect.
    """
    sizes = {"crop": len(region.photo), "image": len(image)}
    batch = find_batch_size(sizes if mask is None else sizes | {"mask": len(mask)})
    photo, image = expand_batch(region.photo, batch), expand_batch(image, batch)
    height, width = image.shape[1:3]
    if mask is not None and mask.shape[1:] != (height, width):
        raise ImageError(
            f"The mask is {mask.shape[2]} x {mask.shape[1]} and the image {width} x {height}. "
            "Give the mask of the working image."
        )
    if abs(region.height * width / height - region.width) > 1.5:  # the region's sides are rounded
        raise ImageError(
            f"The image is {width} x {height} and its crop region {region.width} x "
            f"{region.height}: their aspects differ. Give an image of the crop's working size."
        )
    size = (region.height, region.width)
    (rows, columns), inside = region.slices_in_photo(), (..., *region.slices_in_region())
    enlarged = _resize(rearrange(image, "b h w c -> b c h w"), *size)[inside]
    enlarged = rearrange(enlarged.clamp(0, 1), "b c h w -> b h w c")
    stitched = photo.clone()
    if mask is not None:
        mask = rearrange(expand_batch(mask, batch), "b h w -> b 1 h w")
        alpha = F.interpolate(mask, size=size, mode="bilinear", align_corners=False)
        changed = F.interpolate((mask > 0).to(alpha), size=size, mode="nearest-exact")
        alpha = rearrange((alpha * changed)[inside], "b 1 h w -> b h w 1")
        original = photo[:, rows, columns]
        enlarged = torch.where(alpha > 0, original + alpha * (enlarged - original), original)
    stitched[:, rows, columns] = enlarged
    return stitched


def _resize(image: Tensor, height: int, width: int) -> Tensor:
    """B x C x h x w at another size, bicubic, antialiased where it becomes smaller."""
    if image.shape[2:] == (height, width):
        return image
    return F.interpolate(
        image, size=(height, width), mode="bicubic", align_corners=False, antialias=True
    )
