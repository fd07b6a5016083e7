"""The label sets of SegFormer clothes parsers, brought to this pack's names.

Known: ATR-18 (`mattmdjaga/segformer_b2_clothes` and its kin) and the human parser of FASHN, which
does not tell left from right.
"""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from ..errors import StableVITONError
from .labels import CIHP
from .pose import Pose
from .skeleton import nearer_left

# Labels as the models' config.json spells them, in small letters with "-" as "_".
NAMES = {
    "background": "background",
    "hat": "hat",
    "hair": "hair",
    "sunglasses": "sunglasses",
    "glasses": "sunglasses",
    "upper_clothes": "upper",
    "top": "upper",
    "skirt": "skirt",
    "pants": "pants",
    "dress": "dress",
    "belt": "pants",
    "left_shoe": "left_shoe",
    "right_shoe": "right_shoe",
    "face": "face",
    "left_leg": "left_leg",
    "right_leg": "right_leg",
    "left_arm": "left_arm",
    "right_arm": "right_arm",
    "bag": "background",
    "scarf": "scarf",
    "torso": "torso_skin",
    "jewelry": "background",
    "hands": "glove",
}
ARM, LEG = ("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle")
BOTH_SIDES = {"arms": ("arm", ARM), "legs": ("leg", LEG), "feet": ("shoe", LEG)}


def label_names(id2label: Mapping[int, str]) -> list[str]:
    """A model's labels by id, in NAMES or BOTH_SIDES. StableVITONError where one is neither."""
    names = [id2label[index].lower().replace("-", "_") for index in range(len(id2label))]
    unknown = [name for name in names if name not in NAMES and name not in BOTH_SIDES]
    if unknown:
        raise StableVITONError(
            f"this SegFormer knows the labels {', '.join(names)}; {', '.join(unknown)} are not "
            "those of segformer_b2_clothes (ATR) or fashn-human-parser. Use one of these."
        )
    return names


def labelled(found: np.ndarray, names: Sequence[str], pose: Pose | None) -> np.ndarray:
    """A model's ids H x W -> CIHP ids H x W uint8. Limbs without a side get that of the nearer
    limb of the pose, or of the half of the picture without one."""
    parse = np.zeros(found.shape, np.uint8)
    for index, name in enumerate(names):
        here = found == index
        if name in NAMES:
            parse[here] = CIHP.index(NAMES[name])
        elif here.any():
            part, joints = BOTH_SIDES[name]
            left = nearer_left(found.shape, pose, joints)
            parse[here & left] = CIHP.index(f"left_{part}")
            parse[here & ~left] = CIHP.index(f"right_{part}")
    return parse


def enlarged(scores: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scores of the labels L x h x w -> the best label of every pixel, height x width."""
    best = np.full((height, width), -np.inf, np.float32)
    found = np.zeros((height, width), np.uint8)
    for index, score in enumerate(scores.astype(np.float32)):
        large = cv2.resize(score, (width, height), interpolation=cv2.INTER_LINEAR)
        better = large > best
        best[better], found[better] = large[better], index
    return found
