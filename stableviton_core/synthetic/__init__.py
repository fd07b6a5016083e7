"""Paper dolls: drawn persons who wear drawn garments, a data set that costs nothing and knows
the truth.

A `Person` and a `Garment` are drawn independently, so the same person can be rendered in the
garment that is asked for: the true answer of a try-on. The worn garment is the flat garment,
warped part by part (torso, upper and lower sleeves) along the person's bones; mask, DensePose
parts and the flat picture come from that same geometry.

Coordinates are in units of the picture's height: x in 0..0.75, y in 0..1, with y down. "Left" is
the left of the picture.
"""

from .draw_garment import PATCHWORK, PATTERNS, Garment, random_garment
from .draw_person import Person, pose_of, random_person
from .renderer import SyntheticSample, draw

__all__ = [
    "PATCHWORK",
    "PATTERNS",
    "SyntheticSample",
    "Garment",
    "Person",
    "draw",
    "pose_of",
    "random_garment",
    "random_person",
]
