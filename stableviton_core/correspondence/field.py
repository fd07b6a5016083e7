"""The dense correspondence between person images and garment images."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..errors import ImageError
from ..image_tensors import expand_batch


@dataclass(frozen=True, eq=False)
class CorrespondenceField:
    """Where each pixel of persons comes from on their garments. All float32 on the CPU.

    coordinates: B x H x W x 2, (x, y) on the garment image padded to the person's aspect, 0..1 from
    border to border; outside 0..1 where nothing of the garment is shown. confidence: B x H x W,
    0..1, 0 outside the mask that it was fitted in. garment_mask: B x H x W, 1 = garment, of the
    padded garment images.
    """

    coordinates: Tensor
    confidence: Tensor
    garment_mask: Tensor

    def __len__(self) -> int:
        return len(self.coordinates)

    def __getitem__(self, items: slice) -> "CorrespondenceField":
        return CorrespondenceField(*(value[items] for value in self._values()))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.coordinates.shape[1], self.coordinates.shape[2]

    def expand(self, batch: int) -> "CorrespondenceField":
        """A field of one item for a batch."""
        return CorrespondenceField(*(expand_batch(value, batch) for value in self._values()))

    def check_aspect(self, height: int, width: int) -> None:
        """ImageError where images of this size are of another aspect than the field."""
        rows, columns = self.size
        if abs(columns * height / rows - width) > 1:
            raise ImageError(
                f"The try-on is {width} x {height} (width x height) and the correspondence field "
                f"{columns} x {rows}: their aspects differ. Use the try-on that the field was made "
                "of, before it is put back into a photo."
            )

    def resize(self, height: int, width: int) -> "CorrespondenceField":
        if self.size == (height, width):
            return self
        values = torch.cat([self.coordinates, *(v[..., None] for v in self._values()[1:])], dim=-1)
        values = rearrange(values, "b h w c -> b c h w")
        values = F.interpolate(values, (height, width), mode="bilinear", align_corners=False)
        x, y, confidence, garment_mask = values.unbind(1)
        return CorrespondenceField(torch.stack([x, y], dim=-1), confidence, garment_mask)

    def warp(self, garments: Tensor) -> Tensor:
        """Garment images B x C x h x w of the person's aspect and any size -> as seen on the
        persons, B x C x H x W float32; their border's values beyond the border.

        Garments of more than the person's resolution are made smaller first, by area, so that their
        details do not alias.
        """
        height, width = self.size
        garments = garments.to("cpu", torch.float32)
        if garments.shape[2] > height:
            garments = F.interpolate(garments, (height, width), mode="area")
        grid = self.coordinates * 2 - 1
        return F.grid_sample(
            garments, grid, mode="bicubic", padding_mode="border", align_corners=False
        )

    def warp_mask(self) -> Tensor:
        """The garment's mask as seen on the persons, B x H x W; 0 where the field leaves the
        garment image."""
        warped = self.warp(rearrange(self.garment_mask, "b h w -> b 1 h w"))[:, 0].clamp(0, 1)
        return warped * self._is_inside()

    def warp_image(self, garment: Tensor, garment_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Garments as IMAGE and their MASK of one size -> IMAGE and MASK as seen on the persons.
        The mask is 0 where the field leaves the garment image."""
        layers = torch.cat([garment, garment_mask[..., None]], dim=-1)
        warped = self.warp(rearrange(layers, "b h w c -> b c h w")).clamp(0, 1)
        return rearrange(warped[:, :3], "b c h w -> b h w c"), warped[:, 3] * self._is_inside()

    def _is_inside(self) -> Tensor:
        """Where the field stays on the garment image, B x H x W bool."""
        return ((self.coordinates >= 0) & (self.coordinates <= 1)).all(dim=-1)

    def _values(self) -> tuple[Tensor, ...]:
        return self.coordinates, self.confidence, self.garment_mask


def concatenate_fields(fields: Sequence[CorrespondenceField]) -> CorrespondenceField:
    """Fields of one size as one of a batch."""
    values = zip(*(field._values() for field in fields), strict=True)
    return CorrespondenceField(*(torch.cat(value) for value in values))
