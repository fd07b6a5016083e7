"""How the papers measure, read from the code that their authors published."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ..errors import ImageError
from ..images import read_image
from .config import ProtocolName
from .lpips import Backbone

Filter = Literal["bilinear", "Lanczos"]
FILTERS: dict[Filter, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "Lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Protocol:
    """How a paper measures.

    filter: of Pillow, which averages when it reduces; brings results and references to the size.
    lpips_size: side of the square that images are resized to for LPIPS, bilinearly; None: not.
    resize_fid_references: False where clean-fid takes the references at their files' size.
    """

    filter: Filter
    grey_ssim: bool
    lpips_backbone: Backbone
    lpips_size: int | None
    resize_fid_references: bool

    def describe_ssim(self) -> str:
        return "scikit-image, grey, Gaussian" if self.grey_ssim else "torchmetrics, RGB in 0..1"

    def describe_lpips(self) -> str:
        size = f"{self.lpips_size} x {self.lpips_size}" if self.lpips_size else "full size"
        return f"{self.lpips_backbone}, {size}"

    def describe_fid(self) -> str:
        return "clean-fid" if self.resize_fid_references else "clean-fid, references as filed"


PROTOCOLS: dict[ProtocolName, Protocol] = {
    "hr-viton": Protocol("bilinear", True, "alex", 128, True),
    "catvton": Protocol("Lanczos", False, "squeeze", None, True),
    "ladi-viton": Protocol("bilinear", False, "alex", None, False),
}


def resize(image: np.ndarray, height: int, width: int, filter: Filter) -> np.ndarray:
    """An array H x W x 3 uint8 -> height x width x 3, unchanged where it has that size."""
    if image.shape[:2] == (height, width):
        return image
    return np.array(Image.fromarray(image).resize((width, height), FILTERS[filter]))


def read_resized(file: Path, height: int, width: int, filter: Filter) -> np.ndarray:
    """An image file -> height x width x 3 uint8. ImageError where its aspect is another one by more
    than a pixel."""
    image = read_image(file)
    h, w = image.shape[:2]
    if abs(w * height / h - width) > 1:
        raise ImageError(
            f"{file} is {w} x {h} (width x height), which is not the aspect of {width} x {height}. "
            "Crop it, or measure at another size with --height and --width."
        )
    return resize(image, height, width, filter)
