"""A person in a garment: the garment's parts are warped along the person's bones."""

from dataclasses import dataclass

import cv2
import numpy as np

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
    Draw,
    Point,
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

SLEEVE_SHADE = 0.9  # so that an arm before the body shows

# DensePose part indices
TORSO, HEAD = densepose.TORSO, densepose.HEAD
SIDES = ("right", "left")  # the person's, by side of the image
HANDS, UPPER_LEGS, UPPER_ARMS, LOWER_ARMS = (
    tuple(parts[side] for side in SIDES)
    for parts in (densepose.HANDS, densepose.UPPER_LEGS, densepose.UPPER_ARMS, densepose.LOWER_ARMS)
)
ARMS = tuple(f"{side}_arm" for side in SIDES)


@dataclass(frozen=True)
class SyntheticSample:
    """One rendered pair. Images are H x W x 3 uint8 RGB; masks H x W uint8, 0 or 255.

    mask: the region to generate (255 = change). worn: the garment's own pixels on the person.
    parse: labels in CIHP ids. garment_coordinates: H x W x 3 uint8, where on the garment's
    image the worn pixels lie: column and row, each from 0 to 255, and 255 where worn, else 0.
    """

    image: np.ndarray
    garment: np.ndarray
    garment_mask: np.ndarray
    agnostic: np.ndarray
    mask: np.ndarray
    densepose: np.ndarray
    worn: np.ndarray
    parse: np.ndarray
    garment_coordinates: np.ndarray


def draw(person: Person, garment: Garment, height: int) -> SyntheticSample:
    """The person wearing the garment. Images are height x (3/4 height); height in multiples of
    4, else ValueError."""
    if height % 4:
        raise ValueError(f"height must be a multiple of 4 (the width is 3/4 of it), got {height}")
    scale = height * SUPERSAMPLING
    texture, parts = draw_flat_garment(garment, scale)
    canvas = _Canvas(scale)
    canvas.backdrop(person.background)
    _draw_body(canvas, person)
    lit = 1 - 0.1 * (1 + person.light * np.linspace(-1, 1, canvas.image.shape[1]))
    for index, (source, target, part) in enumerate(_place_parts(person, garment, parts, scale)):
        canvas.cloth(texture, source, target, part, lit * (SLEEVE_SHADE if index else 1))
    _draw_head(canvas, person)
    _draw_hands(canvas, person)
    mask = _draw_mask(canvas, person)
    image = downsample_image(canvas.image)
    mask = downsample_mask(mask)
    return SyntheticSample(
        image=image,
        garment=downsample_image(compose_flat_image(texture, parts)),
        garment_mask=downsample_mask(np.maximum.reduce(parts)),
        agnostic=fill_agnostic_region(image, mask),
        mask=mask,
        densepose=downsample_parts(canvas.parts),
        worn=downsample_mask(canvas.worn),
        parse=canvas.parse[::SUPERSAMPLING, ::SUPERSAMPLING],
        garment_coordinates=_downsample_coordinates(canvas),
    )


class _Canvas:
    """The image, the DensePose parts and the worn garment's mask, drawn together."""

    def __init__(self, scale: int):
        self.scale = scale
        self.parts = create_layer(scale)
        self.worn = create_layer(scale)
        self.parse = create_layer(scale)
        self.garment_coordinates = np.zeros((*self.parts.shape, 2), np.float32)
        self.image = np.zeros((*self.parts.shape, 3), np.uint8)

    def backdrop(self, colours: tuple[Colour, Colour]) -> None:
        ends = np.array(colours, np.uint8)[:, None]  # 2 x 1 x 3, top and bottom
        self.image = cv2.resize(ends, self.image.shape[1::-1], interpolation=cv2.INTER_LINEAR)

    def fill(self, draw: Draw, colour: Colour, part: int | None, label: str) -> None:
        """Draw a shape that lies over the garment; part None leaves the DensePose parts alone."""
        draw(self.image, colour)
        draw(self.worn, 0)
        draw(self.parse, CIHP.index(label))
        if part is not None:
            draw(self.parts, part)

    def limb(
        self, a: Point, b: Point, radius: float, colour: Colour, part: int | None, label: str
    ) -> None:
        self.fill(make_capsule(a, b, radius, self.scale), colour, part, label)

    def cloth(
        self,
        texture: np.ndarray,
        source: np.ndarray,
        target: np.ndarray,
        part: np.ndarray,
        shade: np.ndarray,
    ) -> None:
        """Warp one part of the flat garment: four source points to four target points. shade: a
        factor for each column."""
        matrix = cv2.getPerspectiveTransform(source.astype(np.float32), target.astype(np.float32))
        size = self.image.shape[1::-1]
        alpha = cv2.warpPerspective(part, matrix, size) > 127
        warped = cv2.warpPerspective(texture, matrix, size, borderMode=cv2.BORDER_REPLICATE)
        rows, columns = np.nonzero(alpha)
        self.image[rows, columns] = warped[rows, columns] * shade[columns, None]
        self.worn[alpha] = 255
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
        canvas.limb(top, foot, radius, person.trousers, part, "pants")
    throat = (person.neck - (0, 0.06), person.neck + (0, 0.03))
    canvas.limb(*throat, 0.045, person.skin, HEAD, "torso_skin")
    torso = np.array([*person.shoulders, right, left])
    canvas.fill(make_polygon(torso, canvas.scale), person.skin, TORSO, "torso_skin")
    for side in (0, 1):
        shoulder, elbow, wrist = person.shoulders[side], person.elbows[side], person.wrists[side]
        canvas.limb(shoulder, elbow, person.limb, person.skin, UPPER_ARMS[side], ARMS[side])
        canvas.limb(elbow, wrist, 0.85 * person.limb, person.skin, LOWER_ARMS[side], ARMS[side])


def _draw_head(canvas: _Canvas, person: Person) -> None:
    centre, radius = person.neck - (0, 0.115), person.head_radius
    scale = canvas.scale
    length = min(person.hair_length, 1.3) * radius
    for side in (-1, 1):
        top = centre + np.array([side * 0.9 * radius, 0])
        canvas.limb(top, top + (0, length), 0.3 * radius, person.hair, None, "hair")
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


def _make_hands(person: Person, scale: int) -> list[Draw]:
    regions = []
    for elbow, wrist in zip(person.elbows, person.wrists, strict=True):
        along = person.limb * (wrist - elbow) / np.linalg.norm(wrist - elbow)
        regions.append(make_capsule(wrist + along, wrist + 1.5 * along, person.limb, scale))
    return regions


def _downsample_coordinates(canvas: _Canvas) -> np.ndarray:
    garment_coordinates = canvas.garment_coordinates[::SUPERSAMPLING, ::SUPERSAMPLING].clip(0, 1)
    known = canvas.worn[::SUPERSAMPLING, ::SUPERSAMPLING, None] > 0
    return (known * np.dstack([garment_coordinates, known]) * 255).round().astype(np.uint8)


def _place_parts(
    person: Person, garment: Garment, parts: list[np.ndarray], scale: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Where each flat part goes on the body: (source points, target points, part mask)."""
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
    placed = [(source * scale, target * scale, parts[0])]
    arms = [place_flat_arm(-1), place_flat_arm(1)]
    joints = (person.shoulders, person.elbows, person.wrists)
    radius = 1.28 * person.limb
    for segment in range(2 if garment.long_sleeves else 1):
        for side in (0, 1):
            flat = (arms[side][segment], arms[side][segment + 1])
            bone = (joints[segment][side], joints[segment + 1][side])
            part = parts[1 + 2 * segment + side]
            placed.append(
                (_bone_corners(*flat, FLAT_LIMB, scale), _bone_corners(*bone, radius, scale), part)
            )
    return placed


def _bone_corners(start: Point, end: Point, radius: float, scale: int) -> np.ndarray:
    """The four corners of a bone's rectangle."""
    along = (end - start) / np.linalg.norm(end - start)
    across = radius * np.array([-along[1], along[0]])
    return np.array([start - across, start + across, end + across, end - across]) * scale


def _draw_mask(canvas: _Canvas, person: Person) -> np.ndarray:
    """Everything that any top could cover, whatever is worn: torso and arms with a margin, without
    the head and the hands."""
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
    for hand in _make_hands(person, scale):
        hand(mask, 0)
    return mask
