"""Masks of everyone in a picture, and of its most salient object, by the shipped networks."""

import cv2
import numpy as np

from .networks import run

PERSON_SIZE, SALIENT_SIZE = 256, 320
SALIENT = 0.5  # certainty of the most salient pixel, before its range is stretched
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def person_mask(image: np.ndarray) -> np.ndarray:
    """Everyone in a picture H x W x 3 uint8 RGB -> H x W float32, 0..1 (MediaPipe's selfie
    segmentation)."""
    small = cv2.resize(image, (PERSON_SIZE, PERSON_SIZE), interpolation=cv2.INTER_LINEAR)
    (output,) = run("selfie_segmentation", small / 255)
    return _enlarged(output.reshape(PERSON_SIZE, PERSON_SIZE), image)


def salient_mask(image: np.ndarray) -> np.ndarray:
    """The most salient object of a picture H x W x 3 uint8 RGB, such as a garment on a plain
    ground -> H x W float32, 0..1 (U-2-Net, small). All zero where nothing is salient."""
    small = cv2.resize(image, (SALIENT_SIZE, SALIENT_SIZE), interpolation=cv2.INTER_AREA)
    pixels = (small / max(int(small.max()), 1) - IMAGENET_MEAN) / IMAGENET_STD
    output = run("u2netp", pixels)[0].reshape(SALIENT_SIZE, SALIENT_SIZE)
    low, high = float(output.min()), float(output.max())
    if high < SALIENT:
        return np.zeros(image.shape[:2], np.float32)
    return _enlarged((output - low) / max(high - low, 1e-9), image)


def _enlarged(mask: np.ndarray, image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    return cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
