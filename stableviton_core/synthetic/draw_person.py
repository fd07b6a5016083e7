"""Random persons: body, pose and background."""

from dataclasses import dataclass

import numpy as np

from ..person.pose import COCO_18, Pose
from .shapes import ASPECT, Colour, Point, from_hsv, rotate


@dataclass(frozen=True)
class Person:
    """A body and its background. Joints are points in units of the image's height; pairs are the
    left and the right of the image."""

    neck: Point
    shoulders: tuple[Point, Point]
    elbows: tuple[Point, Point]
    wrists: tuple[Point, Point]
    hips: tuple[Point, Point]
    head_radius: float
    limb: float  # half thickness of an arm
    hair_length: float
    skin: Colour
    hair: Colour
    trousers: Colour
    background: tuple[Colour, Colour]  # top and bottom of a gradient
    light: float  # -1 from the left .. 1 from the right


def generate_person(rng: np.random.Generator) -> Person:
    neck = np.array([ASPECT / 2 + rng.uniform(-0.04, 0.04), rng.uniform(0.25, 0.31)])
    tilt = rng.uniform(-0.06, 0.06)
    across, down = rotate(tilt, 1, 0), rotate(tilt, 0, 1)
    shoulder, hip = rng.uniform(0.10, 0.135), rng.uniform(0.078, 0.105)
    torso = rng.uniform(0.30, 0.36)
    shoulders, elbows, wrists, hips = [], [], [], []
    for side in (-1, 1):
        start = neck + side * shoulder * across + 0.02 * down
        upper = rng.uniform(0.05, 0.95)  # 0 hangs down, pi/2 is level
        bend = rng.uniform(-1.9, 0.9)  # negative brings the forearm in front of the body
        elbow = start + rng.uniform(0.15, 0.17) * rotate(-side * upper, 0, 1)
        wrist = elbow + rng.uniform(0.12, 0.14) * rotate(-side * (upper + bend), 0, 1)
        shoulders.append(start)
        elbows.append(elbow)
        wrists.append(wrist)
        hips.append(neck + side * hip * across + torso * down)
    skin_tone = rng.uniform()
    return Person(
        neck=neck,
        shoulders=(shoulders[0], shoulders[1]),
        elbows=(elbows[0], elbows[1]),
        wrists=(wrists[0], wrists[1]),
        hips=(hips[0], hips[1]),
        head_radius=float(rng.uniform(0.058, 0.07)),
        limb=float(rng.uniform(0.026, 0.033)),
        hair_length=float(rng.uniform(0.2, 1.7)),
        skin=from_hsv(rng.uniform(0.04, 0.085), 0.28 + 0.37 * skin_tone, 0.97 - 0.55 * skin_tone),
        hair=from_hsv(rng.uniform(0.02, 0.13), rng.uniform(0.2, 0.85), rng.uniform(0.08, 0.75)),
        trousers=from_hsv(rng.uniform(), rng.uniform(0.05, 0.6), rng.uniform(0.12, 0.75)),
        background=(
            from_hsv(rng.uniform(), rng.uniform(0, 0.25), rng.uniform(0.6, 1)),
            from_hsv(rng.uniform(), rng.uniform(0, 0.25), rng.uniform(0.6, 1)),
        ),
        light=float(rng.uniform(-1, 1)),
    )


def compute_pose(person: Person, height: int) -> Pose:
    """Keypoints of a person in pixels of an image of a height. The person faces the viewer, so the
    left of the image is the right side of the body."""
    head = person.neck - (0, 0.115)
    eye = np.array([0.36, 0.1]) * person.head_radius
    keypoints = {
        "nose": head + (0, 0.3 * person.head_radius),
        "neck": person.neck,
        "right_eye": head + eye * (-1, 1),
        "left_eye": head + eye,
    }
    for joint in ("shoulder", "elbow", "wrist", "hip"):
        keypoints |= zip(
            (f"right_{joint}", f"left_{joint}"), getattr(person, f"{joint}s"), strict=True
        )
    points = np.full((len(COCO_18), 2), np.nan)
    for name, point in keypoints.items():
        points[COCO_18.index(name)] = point * height
    return Pose(points)
