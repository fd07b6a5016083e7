"""What DressCode stores instead of agnostic images, masks and DensePose images: keypoints, label
maps and part indices (arXiv 2204.08532)."""

import json
from pathlib import Path

import cv2
import numpy as np

from ..errors import ImageError, StableVITONError
from ..images import fill_agnostic_region, read_image, read_numbers
from ..person.agnostic import (
    MASK_CATEGORIES,
    MaskOptions,
    PersonInputs,
    check_mask,
    make_agnostic_mask,
)
from ..person.densepose import PARTS, colour_parts
from ..person.labels import decode_labels
from ..person.pose import COCO_18, Pose, pose_from_points

KEYPOINTS_SIZE = (512, 384)  # height and width of the image that keypoints refer to


def make_agnostic(
    image: np.ndarray, keypoints: Path, labels: Path, category: str
) -> tuple[np.ndarray, np.ndarray]:
    """The agnostic image H x W x 3 and the mask H x W (255 = generate), uint8, of a person image
    H x W x 3 uint8, by the rule "parse+pose". StableVITONError where a file cannot be read, or
    nothing of the category is worn."""
    height, width = image.shape[:2]
    # the labels' borders stay borders of labels
    parse = cv2.resize(
        read_label_map(labels), (width, height), interpolation=cv2.INTER_NEAREST_EXACT
    )
    person = PersonInputs(
        pose=read_keypoints(keypoints, height, width),
        parse=parse,
        source="DressCode",
        approximate=False,
        others=np.zeros((height, width), bool),  # its images show one person
    )
    options = MaskOptions(rule="parse+pose", category=MASK_CATEGORIES[category])
    try:
        region, _ = make_agnostic_mask(image, person, options)
        check_mask(region, options.category)
    except StableVITONError as error:
        raise StableVITONError(f"{labels}: {error}") from error
    mask = np.where(region, 255, 0).astype(np.uint8)
    return fill_agnostic_region(image, mask), mask


def read_keypoints(file: Path, height: int, width: int) -> Pose:
    """The pose of a keypoints file, in pixels of an image of height x width. StableVITONError where
    the file is missing or another one."""
    try:
        points = json.loads(file.read_text(encoding="utf-8"))["keypoints"]
        array = np.array([point[:2] for point in points], np.float64)
        if array.shape != (len(COCO_18), 2) or not np.isfinite(array).all():
            raise ValueError(f"an array of {array.shape}")
    except FileNotFoundError as error:
        raise StableVITONError(f"{file} is missing.") from error
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise StableVITONError(
            f"{file} holds no keypoints ({error!r}). Expected JSON with 'keypoints', 18 lists of "
            "x, y, score and index."
        ) from error
    array[(array <= 1).all(axis=1)] = 0  # missing
    scale = (width / KEYPOINTS_SIZE[1], height / KEYPOINTS_SIZE[0])
    return pose_from_points((array * scale).tolist())


def read_label_map(file: Path) -> np.ndarray:
    """ATR label map, as numbers or in colours -> H x W uint8 in CIHP ids. StableVITONError where it
    is none."""
    try:
        numbers = read_numbers(file)
        image = read_image(file) if numbers is None else np.stack([numbers] * 3, axis=-1)
        return decode_labels(image, "atr")
    except StableVITONError as error:
        raise StableVITONError(f"{file}: {error}") from error


def read_densepose(file: Path) -> np.ndarray:
    """DensePose image H x W x 3 uint8. In a folder `dense` it is made of part indices. ImageError
    where these are others than 0..24."""
    if file.parent.name != "dense":
        return read_image(file)
    parts = read_numbers(file)
    if parts is None or parts.max() > PARTS:
        raise ImageError(
            f"{file} holds no DensePose part indices: expected one channel of 0..{PARTS}."
        )
    return colour_parts(parts)
