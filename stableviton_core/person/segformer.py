"""From the labels of SegFormer clothes parsers to CIHP.

Known label sets: ATR-18 (`mattmdjaga/segformer_b2_clothes` and others) and the human parser of
FASHN, whose limbs have no side.
"""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from ..errors import StableVITONError
from .labels import ATR, CIHP
from .pose import Pose
from .skeleton import find_left_side

# Labels as the models' config.json spells them, in lower case with "-" as "_".
NAMES = {name: name for name in ATR} | {
    "upper_clothes": "upper",
    "top": "upper",
    "glasses": "sunglasses",
    "belt": "pants",
    "bag": "background",
    "torso": "torso_skin",
    "jewelry": "background",
    "hands": "glove",
}
ARM, LEG = ("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle")
BOTH_SIDES = {"arms": ("arm", ARM), "legs": ("leg", LEG), "feet": ("shoe", LEG)}


def read_label_names(id2label: Mapping[int, str]) -> list[str]:
    """A model's labels by id, all in NAMES or BOTH_SIDES. StableVITONError where one is not."""
    names = [id2label[index].lower().replace("-", "_") for index in range(len(id2label))]
    unknown = [name for name in names if name not in NAMES and name not in BOTH_SIDES]
    if unknown:
        raise StableVITONError(
            f"this SegFormer knows the labels {', '.join(names)}; {', '.join(unknown)} are not "
            "those of segformer_b2_clothes (ATR) or fashn-human-parser. Use one of these."
        )
    return names


def convert_labels(labels: np.ndarray, names: Sequence[str], pose: Pose | None) -> np.ndarray:
    """A model's ids H x W -> CIHP ids H x W uint8. Limbs without a side get that of the nearest
    limb of the pose, or without a pose that of the half of the image."""
    parse = np.zeros(labels.shape, np.uint8)
    for index, name in enumerate(names):
        region = labels == index
        if name in NAMES:
            parse[region] = CIHP.index(NAMES[name])
        elif region.any():
            part, joints = BOTH_SIDES[name]
            left = find_left_side(labels.shape, pose, joints)
            parse[region & left] = CIHP.index(f"left_{part}")
            parse[region & ~left] = CIHP.index(f"right_{part}")
    return parse


def upsample_labels(logits: np.ndarray, height: int, width: int) -> np.ndarray:
    """Logits L x h x w -> the label of the highest one, bilinearly resized, height x width uint8.
    One label at a time: all of them would take L times the memory."""
    highest = np.full((height, width), -np.inf, np.float32)
    labels = np.zeros((height, width), np.uint8)
    for index, logit in enumerate(logits.astype(np.float32)):
        resized = cv2.resize(logit, (width, height), interpolation=cv2.INTER_LINEAR)
        higher = resized > highest
        highest[higher], labels[higher] = resized[higher], index
    return labels
