"""The dense correspondence between a person image and a garment image."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..errors import ImageError
from ..image_tensors import expand_batch


@dataclass(frozen=True, eq=False)
class CorrespondenceField:
    """Where each pixel of persons comes from on their garments.

    coordinates: B x H x W x 2, (x, y) on the garment image padded to the person's aspect, 0..1 from
    border to border; outside 0..1 where nothing of the garment is shown. confidence: B x H x W,
    0..1, 0 outside the agnostic mask. Both float32 on the CPU.
    """

    coordinates: Tensor
    confidence: Tensor

    def __len__(self) -> int:
        return len(self.coordinates)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.coordinates.shape[1], self.coordinates.shape[2]

    def expand(self, batch: int) -> "CorrespondenceField":
        """A field of one item for a batch."""
        return CorrespondenceField(
            expand_batch(self.coordinates, batch), expand_batch(self.confidence, batch)
        )

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
        values = torch.cat([self.coordinates, self.confidence[..., None]], dim=-1)
        values = rearrange(values, "b h w c -> b c h w")
        values = F.interpolate(values, (height, width), mode="bilinear", align_corners=False)
        x, y, confidence = values.unbind(1)
        return CorrespondenceField(torch.stack([x, y], dim=-1), confidence)

    def warp(self, garments: Tensor) -> Tensor:
        """Garment images B x C x h x w of the person's aspect and any size -> as seen on the
        persons, B x C x H x W; their border's values beyond the border.

        A garment of more than the person's resolution is made smaller first, by area, so that its
        details do not alias.
        """
        height, width = self.size
        if garments.shape[2] > height:
            garments = F.interpolate(garments, (height, width), mode="area")
        grid = self.coordinates.to(garments) * 2 - 1
        return F.grid_sample(
            garments, grid, mode="bicubic", padding_mode="border", align_corners=False
        )

    def warp_image(self, garment: Tensor, garment_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Garments as IMAGE and their MASK of one size -> IMAGE and MASK as seen on the persons,
        float32 on the CPU. The mask is 0 where the field leaves the garment image."""
        layers = torch.cat([garment, garment_mask[..., None]], dim=-1).to("cpu", torch.float32)
        warped = self.warp(rearrange(layers, "b h w c -> b c h w")).clamp(0, 1)
        inside = ((self.coordinates >= 0) & (self.coordinates <= 1)).all(dim=-1)
        return rearrange(warped[:, :3], "b c h w -> b h w c"), warped[:, 3] * inside
