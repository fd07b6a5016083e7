"""How far a try-on can be trusted, measured without ground truth: is it the garment, where the
field says that the garment lies, and is the field sure of itself?
"""

from dataclasses import asdict, dataclass

import numpy as np
from torch import Tensor

from ..images import blur_inside
from .field import CorrespondenceField

WINDOW = 1 / 100  # of the image's height: sigma within which patterns are compared
COLOUR_WINDOW = 1 / 16  # within which colours are
LEAST_CONTRAST = 0.02  # standard deviation, below which a window has no pattern
LARGEST_DIFFERENCE = 0.5  # of colours, from which nothing of the colour is right
STRETCH = 4.0  # of areas against the median, from which the field is torn or folded


@dataclass(frozen=True)
class Score:
    """Each 0..1, larger is better. confidence: the field's, mean over the garment. smoothness: the
    share of the garment whose field is neither folded nor torn. colour and structure: similarity
    of the try-on and the garment photo through the field."""

    confidence: float
    smoothness: float
    colour: float
    structure: float

    @property
    def total(self) -> float:
        """Structure, which follows the true SSIM (docs/correspondence.md), times the mean of the
        others."""
        return self.structure * (self.confidence + self.smoothness + self.colour) / 3

    def describe(self) -> str:
        parts = ", ".join(f"{name} {value:.2f}" for name, value in asdict(self).items())
        return f"{self.total:.3f} ({parts})"


def score_tryons(
    tryon: Tensor, garment: Tensor, garment_mask: Tensor, field: CorrespondenceField, mask: Tensor
) -> list[Score]:
    """The score of each try-on. All as `carry_details` takes them."""
    field = field.resize(*tryon.shape[1:3])
    warped, region = field.warp_image(garment, garment_mask)
    region = region * (mask.cpu() > 0)
    fields = field.coordinates, field.confidence
    items = zip(tryon.cpu().float(), warped, region, *fields, strict=True)
    return [_score(*(value.numpy() for value in item)) for item in items]


def _score(
    tryon: np.ndarray,
    garment: np.ndarray,
    region: np.ndarray,
    coordinates: np.ndarray,
    confidence: np.ndarray,
) -> Score:
    """Images H x W x 3, the share of each pixel that shows the garment H x W, and the field."""
    total = max(float(region.sum()), 1e-6)

    def average(values: np.ndarray) -> float:
        return float((values * region).sum() / total)

    difference = blur_inside(tryon - garment, region, COLOUR_WINDOW * len(tryon))
    largest = np.abs(difference).max(axis=-1)
    return Score(
        confidence=average(confidence),
        smoothness=average(_is_smooth(coordinates, region)),
        colour=average(1 - (largest / LARGEST_DIFFERENCE).clip(0, 1)),
        structure=average(_compare_structure(tryon, garment, region).clip(0, 1)),
    )


def _compare_structure(tryon: np.ndarray, garment: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The contrast and structure term of SSIM (Wang et al., 2004), mean over the channels, H x W in
    -1..1."""
    sigma = WINDOW * len(tryon)
    a, b = (image - blur_inside(image, region, sigma) for image in (tryon, garment))
    variances = blur_inside(a * a + b * b, region, sigma)
    covariance = blur_inside(a * b, region, sigma)
    constant = LEAST_CONTRAST**2
    return ((2 * covariance + constant) / (variances + constant)).mean(axis=-1)


def _is_smooth(coordinates: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Where the field keeps its orientation and about its scale, H x W bool."""
    down, across = np.gradient(coordinates, axis=(0, 1))
    area = across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]
    inside = area[region > 0.5]
    typical = np.median(inside) if inside.size else 0.0
    ratio = area / typical if typical else np.zeros_like(area)
    return (ratio > 1 / STRETCH) & (ratio < STRETCH)
