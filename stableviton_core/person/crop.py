"""From a photo of any size to the working size, and back into the untouched photo.

Images are B x H x W x 3 in 0..1, masks B x H x W.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ImageError
from ..images import MULTIPLE, expand_batch, find_batch_size

MARGIN = 0.08  # around the person, of the longer side
LARGEST = 2**27  # pixels of a frame


@dataclass(frozen=True)
class CropRegion:
    """Where a working picture lies in its photo: rows top..top + height and columns left..left +
    width of the photo, of which those outside it are padding. photo: untouched."""

    photo: Tensor
    top: int
    left: int
    height: int
    width: int

    def inside(self) -> tuple[slice, slice]:
        """Rows and columns of the photo that the frame shows."""
        rows, columns = self.photo.shape[1:3]
        return (
            slice(max(0, self.top), min(rows, self.top + self.height)),
            slice(max(0, self.left), min(columns, self.left + self.width)),
        )


Box = tuple[float, float, float, float]  # left, top, right, bottom


def check_working_size(height: int, width: int) -> None:
    if height % MULTIPLE or width % MULTIPLE:
        raise ImageError(
            f"The working size is {width} x {height}; both must be multiples of {MULTIPLE}, such "
            "as 384 x 512."
        )


def fit(photo: Tensor, height: int, width: int, person: Box | None = None) -> CropRegion:
    """The frame of a working size's aspect: around a person where a box is given, else around the
    whole photo. It stays within the photo as far as it can. ImageError for sizes that cannot be
    used."""
    rows, columns = photo.shape[1:3]
    check_working_size(height, width)
    left, top, right, bottom = person or (0, 0, columns, rows)
    if not (right > left and bottom > top and right > 0 and bottom > 0):
        raise ImageError(f"The person's box is empty or outside the photo: {person}.")
    margin = MARGIN * max(right - left, bottom - top) if person else 0.0
    left, top = max(0, left - margin), max(0, top - margin)
    right, bottom = min(columns, right + margin), min(rows, bottom + margin)
    tall = max(bottom - top, (right - left) * height / width, 1)
    frame_height, frame_width = round(tall), max(1, round(tall * width / height))
    if frame_height * frame_width > LARGEST:
        raise ImageError(
            f"The photo is {columns} x {rows}. A frame of {width} x {height} around it would be "
            f"{frame_width} x {frame_height}; crop the photo to the person first."
        )
    return CropRegion(
        photo=photo,
        top=_placed((top + bottom) / 2, frame_height, rows),
        left=_placed((left + right) / 2, frame_width, columns),
        height=frame_height,
        width=frame_width,
    )


def _placed(middle: float, length: int, available: int) -> int:
    """The start of a stretch about a middle, moved to lie within 0..available, or centred where it
    is longer."""
    if length >= available:
        return (available - length) // 2
    return int(min(max(0, round(middle - length / 2)), available - length))


def crop(frame: CropRegion, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The working picture B x height x width x 3, and a mask B x height x width, 1 = padding.
    Padding repeats the photo's border."""
    rows, columns = frame.inside()
    shown = frame.photo[:, rows, columns].movedim(-1, 1)  # B H W C -> B C H W
    before = (columns.start - frame.left, rows.start - frame.top)
    after = (frame.left + frame.width - columns.stop, frame.top + frame.height - rows.stop)
    sides = (before[0], after[0], before[1], after[1])
    picture = _resized(F.pad(shown, sides, mode="replicate"), height, width)
    empty = F.pad(torch.zeros_like(shown[:, :1]), sides, value=1.0)
    padding = F.interpolate(empty, size=(height, width), mode="nearest")[:, 0]
    return picture.clamp(0, 1).movedim(1, -1), padding


def stitch(frame: CropRegion, image: Tensor, mask: Tensor | None = None) -> Tensor:
    """The photo with the working picture put back at the photo's resolution.

    mask: the region that changed, of the working size; the photo's pixels that lie in a pixel of it
    that is 0 stay exactly. Without it all that the frame shows is replaced. A batch of one goes
    with any other; ImageError for other unequal batches, a mask of another size,
    or an image of another aspect.
    """
    sizes = {"frame": len(frame.photo), "image": len(image)}
    batch = find_batch_size(sizes if mask is None else sizes | {"mask": len(mask)})
    photo, image = expand_batch(frame.photo, batch), expand_batch(image, batch)
    if mask is not None and mask.shape[1:] != image.shape[1:3]:
        raise ImageError(
            f"The mask is {mask.shape[2]} x {mask.shape[1]} and the image {image.shape[2]} x "
            f"{image.shape[1]}. Give the mask of the working picture."
        )
    if abs(frame.height * image.shape[2] / image.shape[1] - frame.width) > 1.5:  # they are rounded
        raise ImageError(
            f"The image is {image.shape[2]} x {image.shape[1]} and its frame {frame.width} x "
            f"{frame.height}: their aspects differ. Give a picture of the frame's working size."
        )
    rows, columns = frame.inside()
    cut = (
        slice(rows.start - frame.top, rows.stop - frame.top),
        slice(columns.start - frame.left, columns.stop - frame.left),
    )
    size = (frame.height, frame.width)
    large = _resized(image.movedim(-1, 1), *size)[:, :, cut[0], cut[1]]
    large = large.clamp(0, 1).movedim(1, -1)  # B C H W -> B H W C
    region = photo[:, rows, columns]
    if mask is not None:
        mask = expand_batch(mask, batch)[:, None]  # B H W -> B 1 H W
        alpha = F.interpolate(mask, size=size, mode="bilinear", align_corners=False)
        inside = F.interpolate((mask > 0).to(alpha), size=size, mode="nearest-exact")
        alpha = (alpha * inside)[:, 0, cut[0], cut[1], None]  # B 1 H W -> B H W 1
        large = torch.where(alpha > 0, region + alpha * (large - region), region)
    restored = photo.clone()
    restored[:, rows, columns] = large
    return restored


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    """B C H W; antialiased where it gets smaller."""
    if image.shape[2:] == (height, width):
        return image
    return F.interpolate(
        image, size=(height, width), mode="bicubic", align_corners=False, antialias=True
    )
