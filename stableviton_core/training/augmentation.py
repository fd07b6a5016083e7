"""Augmentation of the paper (section 4.1 and its supplement): random parameters, their effect."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from torch.utils.data import Dataset

from ..dataset.pairs import Pair
from ..dataset.samples import Sample, load_sample
from ..images import blend_agnostic_region
from .config import TrainConfig
from .distributed_sampler import SampleIndex

PROBABILITY = 0.5
SHIFT = 0.2  # of the side
SCALE = 0.2
HSV = 5  # hue in degrees / 2, saturation and value in levels
BRIGHTNESS = (-0.1, 0.02)
CONTRAST = 0.3


@dataclass(frozen=True)
class Affine:
    """Scale about the centre, then translate by fractions of width and height."""

    x: float
    y: float
    scale: float


@dataclass(frozen=True)
class ColourJitter:
    """Added to hue (0..180), saturation and value (0..255); brightness as a fraction of the range;
    contrast relative."""

    hue: float = 0.0
    saturation: float = 0.0
    value: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0


@dataclass(frozen=True)
class Augmentation:
    """Parameters for one sample. The flip and the colours apply to both sides; person and garment
    have independent affine transforms."""

    flip: bool = False
    person: Affine | None = None
    garment: Affine | None = None
    colours: ColourJitter | None = None


def sample_augmentation(rng: np.random.Generator) -> Augmentation:
    hue, saturation, value = (
        rng.uniform(-HSV, HSV, 3) if rng.uniform() < PROBABILITY else np.zeros(3)
    )
    levels = (rng.uniform(*BRIGHTNESS), rng.uniform(-CONTRAST, CONTRAST))
    brightness, contrast = levels if rng.uniform() < PROBABILITY else (0.0, 0.0)
    return Augmentation(
        flip=bool(rng.uniform() < PROBABILITY),
        person=_sample_affine(rng),
        garment=_sample_affine(rng),
        colours=ColourJitter(hue, saturation, value, brightness, contrast),
    )


def _sample_affine(rng: np.random.Generator) -> Affine | None:
    x, y = rng.uniform(-SHIFT, SHIFT, 2)
    affine = Affine(x, y, rng.uniform(1 - SCALE, 1 + SCALE))
    return affine if rng.uniform() < PROBABILITY else None


class AugmentedDataset(Dataset):
    """Samples by (pair index, epoch), newly augmented in every epoch; a batch is their list."""

    def __init__(self, pairs: Sequence[Pair], config: TrainConfig):
        self.pairs, self.config = pairs, config

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: SampleIndex) -> Sample:
        pair, epoch = index
        return load_augmented_sample(self.pairs[pair], self.config, epoch)

    def collate(self, items: Sequence[Sample]) -> list[Sample]:
        return list(items)


def load_augmented_sample(pair: Pair, config: TrainConfig, variant: int) -> Sample:
    """A pair's images; their augmentation is a function of seed, pair name and variant."""
    sample = load_sample(pair, config.height, config.width)
    if not config.augmentation:
        return sample
    seeds = [config.seed, variant, zlib.crc32(pair.name.encode())]
    return augment(sample, sample_augmentation(np.random.default_rng(seeds)))


def augment(sample: Sample, augmentation: Augmentation) -> Sample:
    """The images after the augmentation, moved linearly, masks too; uncovered borders are black.
    The agnostic image is grey where the moved mask is, blended where that is soft."""
    person, garment, colours = augmentation.person, augmentation.garment, augmentation.colours
    keep = sample.mask[..., None] == 0
    # the person under the mask, so that no grey bleeds over its edge when the image is resampled
    unmasked = np.where(keep, sample.agnostic, sample.image)
    mask = _transform(sample.mask, person)
    agnostic = _jitter_colours(_transform(unmasked, person), colours)
    result = replace(
        sample,
        image=_jitter_colours(_transform(sample.image, person), colours),
        agnostic=blend_agnostic_region(agnostic, mask),
        mask=mask,
        densepose=_transform(sample.densepose, person),
        garment=_jitter_colours(_transform(sample.garment, garment), colours),
    )
    if sample.warped_mask is not None:
        warped_mask = _transform(sample.warped_mask, person, cv2.INTER_NEAREST)
        result = replace(result, warped_mask=warped_mask)
    if sample.garment_coordinates is not None:
        coordinates = _transform_coordinates(sample.garment_coordinates, person, garment)
        result = replace(result, garment_coordinates=coordinates)
    return _flip(result) if augmentation.flip else result


def _flip(sample: Sample) -> Sample:
    """Mirror every image, and the columns that garment_coordinates hold."""
    images = {name: image for name, image in vars(sample).items() if image is not None}
    sample = replace(sample, **{name: image[:, ::-1].copy() for name, image in images.items()})
    if (coordinates := sample.garment_coordinates) is not None:
        coordinates[..., 0] = np.where(coordinates[..., 2] > 0, 255 - coordinates[..., 0], 0)
    return sample


def _transform_coordinates(
    coordinates: np.ndarray, person: Affine | None, garment: Affine | None
) -> np.ndarray:
    """garment_coordinates after both transforms; unknown where they leave the garment image."""
    coordinates = _transform(coordinates, person, cv2.INTER_NEAREST)
    if garment is None:
        return coordinates
    shift = 127.5 * (1 - garment.scale) + 255 * np.array([garment.x, garment.y])
    values = (garment.scale * coordinates[..., :2] + shift).round()
    known = (coordinates[..., 2] > 0) & ((values >= 0) & (values <= 255)).all(axis=-1)
    return np.dstack([np.where(known[..., None], values, 0), 255 * known]).astype(np.uint8)


def _transform(
    image: np.ndarray, affine: Affine | None, interpolation: int = cv2.INTER_LINEAR
) -> np.ndarray:
    if affine is None:
        return image
    height, width = image.shape[:2]
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    shift = centre * (1 - affine.scale) + (affine.x * width, affine.y * height)
    matrix = np.array([[affine.scale, 0, shift[0]], [0, affine.scale, shift[1]]])
    return cv2.warpAffine(image, matrix, (width, height), flags=interpolation)


def _jitter_colours(image: np.ndarray, colours: ColourJitter | None) -> np.ndarray:
    if colours is None or colours == ColourJitter():
        return image
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + colours.hue) % 180
    hsv[..., 1:] += (colours.saturation, colours.value)
    rgb = cv2.cvtColor(_to_uint8(hsv), cv2.COLOR_HSV2RGB).astype(np.float32)
    return _to_uint8(rgb * (1 + colours.contrast) + 255 * colours.brightness)


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)
