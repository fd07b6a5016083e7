"""Renders a person in a garment, with the ground truth of the try-on.

Person and garment are independent, so the same person can be rendered in any garment. The parts of
the flat garment (torso, upper and lower sleeves) are warped along the person's bones; mask,
DensePose, parse and garment coordinates follow from the same geometry.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from ..dataset.samples import Sample
from ..images import fill_agnostic_region
from ..person import densepose
from ..person.labels import CIHP
from .draw_garment import (
    FLAT_LIMB,
    FLAT_NECK,
    FLAT_SHOULDER,
    FLAT_TORSO,
    Garment,
    compose_flat_image,
    draw_flat_garment,
    place_flat_arm,
)
from .draw_person import Person
from .shapes import (
    SUPERSAMPLING,
    Colour,
    Point,
    Shape,
    create_layer,
    downsample_image,
    downsample_mask,
    downsample_parts,
    make_capsule,
    make_ellipse,
    make_polygon,
    scale_colour,
    to_pixels,
)

SLEEVE_SHADE = 0.9  # darkens sleeves, so that an arm in front of the torso is visible
KEPT_HAND = 0.5  # of a hand's thickness: a cell of the latent beside it would show the old cuff

# DensePose part indices
TORSO, HEAD = densepose.TORSO, densepose.HEAD
SIDES = ("right", "left")  # of the body, at the left and the right of the image
HANDS, UPPER_LEGS, UPPER_ARMS, LOWER_ARMS = (
    tuple(parts[side] for side in SIDES)
    for parts in (densepose.HANDS, densepose.UPPER_LEGS, densepose.UPPER_ARMS, densepose.LOWER_ARMS)
)
ARMS = tuple(f"{side}_arm" for side in SIDES)


@dataclass(frozen=True, kw_only=True)
class SyntheticSample(Sample):
    """One rendered pair, with the images that are optional elsewhere. parse: CIHP label ids."""

    warped_mask: np.ndarray
    garment_coordinates: np.ndarray
    garment_mask: np.ndarray
    parse: np.ndarray


def render_sample(person: Person, garment: Garment, height: int) -> SyntheticSample:
    """The person in the garment, height x (3/4 height) pixels. ValueError where the height is no
    multiple of 4."""
    if height % 4:
        raise ValueError(f"height must be a multiple of 4 (the width is 3/4 of it), got {height}")
    scale = height * SUPERSAMPLING
    texture, parts = draw_flat_garment(garment, scale)
    canvas = _Canvas(scale)
    canvas.draw_background(person.background)
    _draw_body(canvas, person)
    shade = 1 - 0.1 * (1 + person.light * np.linspace(-1, 1, canvas.image.shape[1]))
    for index, (source, target, part) in enumerate(_place_parts(person, garment, parts, scale)):
        canvas.warp_part(texture, source, target, part, shade * (SLEEVE_SHADE if index else 1))
    _draw_head(canvas, person)
    _draw_hands(canvas, person)
    mask = downsample_mask(_draw_mask(canvas, person))
    image = downsample_image(canvas.image)
    return SyntheticSample(
        image=image,
        garment=downsample_image(compose_flat_image(texture, parts)),
        garment_mask=downsample_mask(np.maximum.reduce(parts)),
        agnostic=fill_agnostic_region(image, mask),
        mask=mask,
        densepose=downsample_parts(canvas.parts),
        warped_mask=downsample_mask(canvas.warped_mask),
        parse=canvas.parse[::SUPERSAMPLING, ::SUPERSAMPLING],
        garment_coordinates=_downsample_coordinates(canvas),
    )


class _Canvas:
    """Image, DensePose parts, parse, warped garment mask and garment coordinates (x, y in 0..1 of
    the flat image), drawn together."""

    def __init__(self, scale: int):
        self.scale = scale
        self.parts = create_layer(scale)
        self.warped_mask = create_layer(scale)
        self.parse = create_layer(scale)
        self.garment_coordinates = np.zeros((*self.parts.shape, 2), np.float32)
        self.image = np.zeros((*self.parts.shape, 3), np.uint8)

    def draw_background(self, colours: tuple[Colour, Colour]) -> None:
        ends = np.array(colours, np.uint8)[:, None]  # 2 x 1 x 3, top and bottom
        self.image = cv2.resize(ends, self.image.shape[1::-1], interpolation=cv2.INTER_LINEAR)

    def fill(self, shape: Shape, colour: Colour, part: int | None, label: str) -> None:
        """Draw a shape over the garment. part: DensePose index; None leaves the parts unchanged."""
        shape(self.image, colour)
        shape(self.warped_mask, 0)
        shape(self.parse, CIHP.index(label))
        if part is not None:
            shape(self.parts, part)

    def fill_limb(
        self, a: Point, b: Point, radius: float, colour: Colour, part: int | None, label: str
    ) -> None:
        self.fill(make_capsule(a, b, radius, self.scale), colour, part, label)

    def warp_part(
        self,
        texture: np.ndarray,
        source: np.ndarray,
        target: np.ndarray,
        part: np.ndarray,
        shade: np.ndarray,
    ) -> None:
        """Warp a part of the flat garment so that four source points (4 x 2 pixels) come to four
        target points. shade: factor of every column, W."""
        matrix = cv2.getPerspectiveTransform(source.astype(np.float32), target.astype(np.float32))
        size = self.image.shape[1::-1]
        alpha = cv2.warpPerspective(part, matrix, size) > 127
        warped = cv2.warpPerspective(texture, matrix, size, borderMode=cv2.BORDER_REPLICATE)
        rows, columns = np.nonzero(alpha)
        self.image[rows, columns] = warped[rows, columns] * shade[columns, None]
        self.warped_mask[alpha] = 255
        points = np.stack([columns, rows], axis=1)[None].astype(np.float32)
        flat = cv2.perspectiveTransform(points, np.linalg.inv(matrix))[0]
        self.garment_coordinates[rows, columns] = flat / size
        self.parse[alpha] = CIHP.index("upper")


def _draw_body(canvas: _Canvas, person: Person) -> None:
    left, right = person.hips
    middle = (left + right) / 2
    for hip, part in zip(person.hips, UPPER_LEGS, strict=True):
        foot = np.array([hip[0] + 0.25 * (hip[0] - middle[0]), 1.05])
        top = hip + 0.42 * (middle - hip) + (0, 0.05)
        radius = 0.36 * float(np.linalg.norm(right - left))
        canvas.fill_limb(top, foot, radius, person.trousers, part, "pants")
    throat = (person.neck - (0, 0.06), person.neck + (0, 0.03))
    canvas.fill_limb(*throat, 0.045, person.skin, HEAD, "torso_skin")
    torso = np.array([*person.shoulders, right, left])
    canvas.fill(make_polygon(torso, canvas.scale), person.skin, TORSO, "torso_skin")
    for side in (0, 1):
        shoulder, elbow, wrist = person.shoulders[side], person.elbows[side], person.wrists[side]
        canvas.fill_limb(shoulder, elbow, person.limb, person.skin, UPPER_ARMS[side], ARMS[side])
        canvas.fill_limb(
            elbow, wrist, 0.85 * person.limb, person.skin, LOWER_ARMS[side], ARMS[side]
        )


def _draw_head(canvas: _Canvas, person: Person) -> None:
    centre, radius = person.neck - (0, 0.115), person.head_radius
    scale = canvas.scale
    length = min(person.hair_length, 1.3) * radius
    for side in (-1, 1):
        top = centre + np.array([side * 0.9 * radius, 0])
        canvas.fill_limb(top, top + (0, length), 0.3 * radius, person.hair, None, "hair")
    crown = make_ellipse(centre - (0, 0.12 * radius), (1.16 * radius, 1.32 * radius), scale)
    canvas.fill(crown, person.hair, HEAD, "hair")
    face = make_ellipse(centre + (0, 0.12 * radius), (0.86 * radius, 1.12 * radius), scale)
    canvas.fill(face, person.skin, HEAD, "face")
    fringe = make_ellipse(centre - (0, 0.78 * radius), (0.8 * radius, 0.42 * radius), scale)
    canvas.fill(fringe, person.hair, None, "hair")
    dark = scale_colour(person.skin, 0.35)
    for side in (-1, 1):
        eye = centre + np.array([side * 0.36 * radius, 0.1 * radius])
        canvas.fill(make_ellipse(eye, (0.1 * radius, 0.1 * radius), scale), dark, None, "face")
    mouth = make_ellipse(
        centre + np.array([0, 0.62 * radius]), (0.3 * radius, 0.08 * radius), scale
    )
    canvas.fill(mouth, (176, 74, 74), None, "face")


def _draw_hands(canvas: _Canvas, person: Person) -> None:
    for hand, part, arm in zip(_make_hands(person, canvas.scale), HANDS, ARMS, strict=True):
        canvas.fill(hand, person.skin, part, arm)


def _make_hands(person: Person, scale: int, size: float = 1) -> list[Shape]:
    regions = []
    for elbow, wrist in zip(person.elbows, person.wrists, strict=True):
        along = person.limb * (wrist - elbow) / np.linalg.norm(wrist - elbow)
        regions.append(make_capsule(wrist + along, wrist + 1.5 * along, size * person.limb, scale))
    return regions


def _downsample_coordinates(canvas: _Canvas) -> np.ndarray:
    coordinates = canvas.garment_coordinates[::SUPERSAMPLING, ::SUPERSAMPLING].clip(0, 1)
    known = canvas.warped_mask[::SUPERSAMPLING, ::SUPERSAMPLING, None] > 0
    return (known * np.dstack([coordinates, known]) * 255).round().astype(np.uint8)


def _place_parts(
    person: Person, garment: Garment, parts: list[np.ndarray], scale: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each part of the flat garment: source and target points, 4 x 2 pixels, and mask."""
    left, right = person.shoulders
    across = (right - left) / np.linalg.norm(right - left)
    down = np.array([-across[1], across[0]])
    flat_x, flat_y = FLAT_NECK
    flat_top, flat_bottom = flat_y + 0.035, flat_y + FLAT_TORSO
    source = np.array(
        [
            (flat_x - FLAT_SHOULDER, flat_top),
            (flat_x + FLAT_SHOULDER, flat_top),
            (flat_x + 0.16, flat_bottom),
            (flat_x - 0.16, flat_bottom),
        ]
    )
    ease, hem = 0.012, 0.045
    target = np.array(
        [
            left - ease * across,
            right + ease * across,
            person.hips[1] + 0.022 * across + hem * down,
            person.hips[0] - 0.022 * across + hem * down,
        ]
    )
    placements = [(source * scale, target * scale, parts[0])]
    arms = [place_flat_arm(-1), place_flat_arm(1)]
    joints = (person.shoulders, person.elbows, person.wrists)
    radius = 1.28 * person.limb
    for segment in range(2 if garment.long_sleeves else 1):
        for side in (0, 1):
            flat = (arms[side][segment], arms[side][segment + 1])
            bone = (joints[segment][side], joints[segment + 1][side])
            part = parts[1 + 2 * segment + side]
            placements.append(
                (
                    _find_bone_corners(*flat, FLAT_LIMB, scale),
                    _find_bone_corners(*bone, radius, scale),
                    part,
                )
            )
    return placements


def _find_bone_corners(start: Point, end: Point, radius: float, scale: int) -> np.ndarray:
    """Corners of the rectangle around a bone, 4 x 2 pixels."""
    along = (end - start) / np.linalg.norm(end - start)
    across = radius * np.array([-along[1], along[0]])
    return np.array([start - across, start + across, end + across, end - across]) * scale


def _draw_mask(canvas: _Canvas, person: Person) -> np.ndarray:
    """Agnostic mask that is independent of the garment: torso and arms with a margin, without head
    and hands."""
    scale, mask = canvas.scale, create_layer(canvas.scale)
    left, right = person.hips
    across = (right - left) / np.linalg.norm(right - left)
    down = np.array([-across[1], across[0]])
    margin = 0.06
    torso = np.array(
        [
            person.shoulders[0],
            person.neck - (0, 0.01),
            person.shoulders[1],
            right + margin * (across + down),
            left + margin * (down - across),
        ]
    )
    make_polygon(torso, scale)(mask, 255)
    cv2.polylines(mask, [to_pixels(torso, scale)], True, 255, int(0.05 * scale))
    make_capsule(person.neck - (0, 0.015), person.neck, 0.06, scale)(mask, 255)
    for side in (0, 1):
        shoulder, elbow, wrist = person.shoulders[side], person.elbows[side], person.wrists[side]
        make_capsule(shoulder, elbow, 1.75 * person.limb, scale)(mask, 255)
        make_capsule(elbow, wrist, 1.75 * person.limb, scale)(mask, 255)
    head = canvas.parts == HEAD
    head[int((person.neck[1] - 0.05) * scale) :] = False
    mask[head] = 0
    for hand in _make_hands(person, scale, KEPT_HAND):
        hand(mask, 0)
    return mask
