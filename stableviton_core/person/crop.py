"""Crops a photo of any size to the working size (`stitch` puts the result back).

Images are IMAGEs B x H x W x 3 in 0..1, masks B x H x W.
"""

from dataclasses import dataclass

import cv2
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..errors import ImageError
from ..image_tensors import shrink, to_arrays, to_images
from ..images import check_size

CONTEXT = 0.08  # around a box, of its longer side
MAX_PIXELS = 2**27  # of a crop region
OUTSIDE = 0.4  # of the brightness, in the drawing of a region
TEXT_UNIT = 768  # pixels of the photo's longer side for which the drawing's sizes are given

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
    photo: Tensor, height: int, width: int, box: Box | None = None, context: float = CONTEXT
) -> CropRegion:
    """The region of the aspect height : width around a box, or around the whole photo.

    context: the margin around the box, of its longer side. It stays within the photo as far as it
    can. ImageError for a size that is no multiple of 8, an empty box and a region of more than
    MAX_PIXELS.
    """
    rows, columns = photo.shape[1:3]
    check_size("working size", height, width)
    left, top, right, bottom = box or (0, 0, columns, rows)
    if not (right > left and bottom > top and right > 0 and bottom > 0):
        raise ImageError(f"The box to crop around is empty or outside the photo: {box}.")
    margin = context * max(right - left, bottom - top) if box else 0.0
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
    image = resize(F.pad(visible, sides, mode="replicate"), height, width)
    padding = F.pad(torch.zeros_like(visible[:, :1]), sides, value=1.0)
    padding = F.interpolate(padding, size=(height, width), mode="nearest")[:, 0]
    return rearrange(image.clamp(0, 1), "b c h w -> b h w c"), padding


def draw_crop_region(region: CropRegion, height: int, width: int, longer_side: int) -> Tensor:
    """The photo, its longer side of at most so many pixels, darker outside the region, with the
    region's size, the working size and the scale written on it."""
    photo = shrink(region.photo.float(), longer_side)
    scale = photo.shape[1] / region.photo.shape[1]
    rows, columns = (
        slice(round(covered.start * scale), round(covered.stop * scale))
        for covered in region.slices_in_photo()
    )
    shaded = photo * OUTSIDE
    shaded[:, rows, columns] = photo[:, rows, columns]
    text = (
        f"{region.width} x {region.height} -> {width} x {height} ({height / region.height:.2f} x)"
    )
    unit = max(shaded.shape[1:3]) / TEXT_UNIT
    arrays = to_arrays(shaded)
    for array in arrays:
        for colour, thickness in ((0, 4), (255, 1)):
            cv2.putText(
                array,
                text,
                (round(12 * unit), round(30 * unit)),
                cv2.FONT_HERSHEY_SIMPLEX,
                0.8 * unit,
                (colour,) * 3,
                max(1, round(thickness * unit)),
                cv2.LINE_AA,
            )
    return to_images(arrays)


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """B x C x h x w at another size, bicubic, antialiased where it becomes smaller."""
    if image.shape[2:] == (height, width):
        return image
    return F.interpolate(
        image, size=(height, width), mode="bicubic", align_corners=False, antialias=True
    )
