"""What DressCode stores instead of agnostic images, masks and DensePose images: keypoints, label
maps and part indices (arXiv 2204.08532)."""

import json
from pathlib import Path

import cv2
import numpy as np

from ..errors import StableVITONError
from ..images import fill_agnostic_region, read_image
from ..person.agnostic import MaskOptions, PersonInputs, check_mask, make_agnostic_mask
from ..person.densepose import PARTS, colour_parts
from ..person.labels import decode_labels
from ..person.pose import Pose, pose_from_points

KEYPOINTS_SIZE = (512, 384)  # height and width of the image that keypoints refer to
MASK_CATEGORIES = {"upper": "upper", "lower": "lower", "dresses": "dress"}  # the mask rules' names


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
        array = np.array(points, np.float64)[:, :2]
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
    """ATR label map -> H x W uint8 in CIHP ids. StableVITONError where it is none."""
    try:
        return decode_labels(read_image(file), "atr")
    except StableVITONError as error:
        raise StableVITONError(f"{file}: {error}") from error


def colour_indices(image: np.ndarray) -> np.ndarray:
    """A DensePose file H x W x 3 uint8 as DensePose image: grey levels 0..24 are part indices,
    anything else is one already."""
    is_grey = bool((image == image[..., :1]).all())
    return colour_parts(image[..., 0]) if is_grey and image.max() <= PARTS else image
