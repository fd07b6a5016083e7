"""Label maps of clothes and body parts, under one set of names."""

import numpy as np

# VITON-HD image-parse-v3 (CIHP-20), the ids that label maps have inside this pack.
CIHP = (
    "background", "hat", "hair", "glove", "sunglasses", "upper", "dress", "coat", "socks", "pants",
    "torso_skin", "scarf", "skirt", "face", "left_arm", "right_arm", "left_leg", "right_leg",
    "left_shoe", "right_shoe",
)  # fmt: skip


def ids(*names: str) -> list[int]:
    return [CIHP.index(name) for name in names]


def region(parse: np.ndarray, *names: str) -> np.ndarray:
    """Where a label map H x W has one of the names, H x W bool."""
    return np.isin(parse, ids(*names))
