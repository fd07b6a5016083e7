"""Augmentation as in the paper (section 4.1 and its supplement): what is drawn, and its effect."""

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from ..person.agnostic import fill_agnostic_region
from .dataset import Sample

PROBABILITY = 0.5
SHIFT = 0.2  # of the side
SCALE = 0.2
HSV = 5  # hue in degrees / 2, saturation and value in levels
BRIGHTNESS = (-0.1, 0.02)
CONTRAST = 0.3


@dataclass(frozen=True)
class Move:
    """Scale about the middle, then shift by a share of width and height."""

    x: float
    y: float
    scale: float


@dataclass(frozen=True)
class Colours:
    hue: float = 0.0
    saturation: float = 0.0
    value: float = 0.0
    brightness: float = 0.0  # of the whole range
    contrast: float = 0.0


@dataclass(frozen=True)
class Augmentation:
    """What happens to a pair. flip turns both sides; person and garment move independently."""

    flip: bool = False
    person: Move | None = None
    garment: Move | None = None
    colours: Colours | None = None


def random_augmentation(rng: np.random.Generator) -> Augmentation:
    hsv = rng.uniform(-HSV, HSV, 3) if rng.uniform() < PROBABILITY else np.zeros(3)
    levels = (rng.uniform(*BRIGHTNESS), rng.uniform(-CONTRAST, CONTRAST))
    brightness, contrast = levels if rng.uniform() < PROBABILITY else (0.0, 0.0)
    return Augmentation(
        flip=bool(rng.uniform() < PROBABILITY),
        person=_random_move(rng),
        garment=_random_move(rng),
        colours=Colours(hsv[0], hsv[1], hsv[2], brightness, contrast),
    )


def _random_move(rng: np.random.Generator) -> Move | None:
    x, y = rng.uniform(-SHIFT, SHIFT, 2)
    move = Move(x, y, rng.uniform(1 - SCALE, 1 + SCALE))
    return move if rng.uniform() < PROBABILITY else None


def augmented(sample: Sample, augmentation: Augmentation) -> Sample:
    """The pictures after the augmentation. What belongs to the person moves together; uncovered
    borders are black. The agnostic image is grey exactly where the moved mask says change."""
    keep = sample.mask[..., None] == 0
    # the person under the mask, so that no grey bleeds over its edge when the image is resampled
    behind = np.where(keep, sample.agnostic, sample.image)
    moved = Sample(
        image=_recoloured(_moved(sample.image, augmentation.person), augmentation.colours),
        agnostic=_recoloured(_moved(behind, augmentation.person), augmentation.colours),
        mask=_moved(sample.mask, augmentation.person, cv2.INTER_NEAREST),
        densepose=_moved(sample.densepose, augmentation.person, cv2.INTER_NEAREST),
        garment=_recoloured(_moved(sample.garment, augmentation.garment), augmentation.colours),
        warped=None
        if sample.warped is None
        else _moved(sample.warped, augmentation.person, cv2.INTER_NEAREST),
        garment_coordinates=None
        if sample.garment_coordinates is None
        else _moved_places(sample.garment_coordinates, augmentation.person, augmentation.garment),
    )
    moved = replace(moved, agnostic=fill_agnostic_region(moved.agnostic, moved.mask))
    return _flipped(moved) if augmentation.flip else moved


def _flipped(sample: Sample) -> Sample:
    turned: dict[str, Any] = {
        name: None if picture is None else np.ascontiguousarray(picture[:, ::-1])
        for name, picture in vars(sample).items()
    }
    if (garment_coordinates := turned["garment_coordinates"]) is not None:
        garment_coordinates[..., 0] = np.where(
            garment_coordinates[..., 2] > 0, 255 - garment_coordinates[..., 0], 0
        )
    return Sample(**turned)


def _moved_places(
    garment_coordinates: np.ndarray, person: Move | None, garment: Move | None
) -> np.ndarray:
    """Where it lies on the moved garment is known of what stays within the picture."""
    moved = _moved(garment_coordinates, person, cv2.INTER_NEAREST)
    if garment is None:
        return moved
    shift = 127.5 * (1 - garment.scale) + 255 * np.array([garment.x, garment.y])
    values = (garment.scale * moved[..., :2] + shift).round()
    known = (moved[..., 2] > 0) & (values >= 0).all(axis=-1) & (values <= 255).all(axis=-1)
    return np.dstack([np.where(known[..., None], values, 0), 255 * known]).astype(np.uint8)


def _moved(
    picture: np.ndarray, move: Move | None, interpolation: int = cv2.INTER_LINEAR
) -> np.ndarray:
    if move is None:
        return picture
    height, width = picture.shape[:2]
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    shift = centre * (1 - move.scale) + (move.x * width, move.y * height)
    matrix = np.array([[move.scale, 0, shift[0]], [0, move.scale, shift[1]]])
    return cv2.warpAffine(picture, matrix, (width, height), flags=interpolation)


def _recoloured(image: np.ndarray, colours: Colours | None) -> np.ndarray:
    if colours is None or colours == Colours():
        return image
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.float32)  # hue 0..180
    hsv[..., 0] = (hsv[..., 0] + colours.hue) % 180
    hsv[..., 1:] += (colours.saturation, colours.value)
    shifted = cv2.cvtColor(_levels(hsv), cv2.COLOR_HSV2RGB).astype(np.float32)
    return _levels(shifted * (1 + colours.contrast) + 255 * colours.brightness)


def _levels(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)
