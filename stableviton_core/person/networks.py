"""The small networks that ship with the pack, run by OpenCV."""

from functools import cache
from pathlib import Path
from threading import Lock

import cv2
import numpy as np

from ..errors import StableVITONError

MODELS = Path(__file__).parent / "models"
_running = Lock()  # a network holds its input between two calls


@cache
def network(name: str) -> cv2.dnn.Net:
    """A network of MODELS by its file's name, loaded once."""
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


def run(name: str, pixels: np.ndarray) -> list[np.ndarray]:
    """The outputs of a network for one float32 picture H x W x 3, in the network's own order."""
    with _running:
        net = network(name)
        net.setInput(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32))  # 1 C H W
        return list(net.forward(net.getUnconnectedOutLayersNames()))
