"""The small networks that ship with the pack, run by OpenCV, and the masks that two of them make.
Images are H x W x 3 uint8 RGB."""

from functools import cache
from pathlib import Path
from threading import Lock

import cv2
import numpy as np
from einops import rearrange

from ..errors import StableVITONError

MODELS = Path(__file__).parent / "models"
PEOPLE_SIZE, SALIENT_SIZE = 256, 320  # pixels of the networks' square inputs
SALIENT_THRESHOLD = 0.5  # probability of the most salient pixel, before its range is stretched
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_lock = Lock()  # a network holds its input between two calls


@cache
def load_network(name: str) -> cv2.dnn.Net:
    """A network of MODELS by its file name without ending, loaded once."""
    path = MODELS / f"{name}.onnx"
    if not path.is_file():
        raise StableVITONError(f"{path} is missing: the pack is incomplete. Install it again.")
    try:
        # from memory, for OpenCV cannot open every path that Windows can
        return cv2.dnn.readNetFromONNX(np.frombuffer(path.read_bytes(), np.uint8))
    except cv2.error as error:
        raise StableVITONError(
            f"{path} is damaged ({error.err}). Install the pack again."
        ) from error


def run_network(name: str, pixels: np.ndarray) -> list[np.ndarray]:
    """The outputs of a network for one image H x W x 3, already normalised, in its own order."""
    batch = np.ascontiguousarray(rearrange(pixels, "h w c -> 1 c h w"), np.float32)
    with _lock:
        network = load_network(name)
        network.setInput(batch)
        return list(network.forward(network.getUnconnectedOutLayersNames()))


def segment_people(image: np.ndarray) -> np.ndarray:
    """Probability of being on any person, H x W float32 (MediaPipe's selfie segmentation)."""
    small = cv2.resize(image, (PEOPLE_SIZE, PEOPLE_SIZE), interpolation=cv2.INTER_LINEAR)
    (output,) = run_network("selfie_segmentation", small / 255)
    return _resize_mask(output.reshape(PEOPLE_SIZE, PEOPLE_SIZE), image)


def segment_salient_object(image: np.ndarray) -> np.ndarray:
    """The most salient object, such as a garment on a plain background, H x W float32 in 0..1
    (U-2-Net, small). All zero where nothing is salient."""
    small = cv2.resize(image, (SALIENT_SIZE, SALIENT_SIZE), interpolation=cv2.INTER_AREA)
    pixels = (small / max(int(small.max()), 1) - IMAGENET_MEAN) / IMAGENET_STD
    output = run_network("u2netp", pixels)[0].reshape(SALIENT_SIZE, SALIENT_SIZE)
    low, high = float(output.min()), float(output.max())
    if high < SALIENT_THRESHOLD:
        return np.zeros(image.shape[:2], np.float32)
    return _resize_mask((output - low) / max(high - low, 1e-9), image)


def _resize_mask(mask: np.ndarray, image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    return cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
