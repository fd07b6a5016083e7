"""Paper dolls: drawn persons who wear drawn garments, a data set that costs nothing and knows
the truth.

A `Person` and a `Garment` are drawn independently, so the same person can be rendered in the
garment that is asked for: the true answer of a try-on. The worn garment is the flat garment,
warped part by part (torso, upper and lower sleeves) along the person's bones; mask, DensePose
parts and the flat picture come from that same geometry.

Coordinates are in units of the picture's height: x in 0..0.75, y in 0..1, with y down. "Left" is
the left of the picture.
"""

import colorsys
import string
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from ..diffusion import GREY_LEVEL
from ..person.densepose import colour_parts

SUPERSAMPLING = 2
SLEEVE_SHADE = 0.9  # so that an arm before the body shows
ASPECT = 0.75

# DensePose part indices
TORSO, HEAD = 2, 23
HANDS = (3, 4)
UPPER_LEGS = (9, 10)
UPPER_ARMS = (16, 15)
LOWER_ARMS = (20, 19)

PATTERNS = ("plain", "stripes", "checks", "dots", "shape", "letter")
SHAPES = ("disc", "square", "triangle", "star", "ring")

Colour = tuple[int, int, int]
Point = np.ndarray
Draw = Callable[[np.ndarray, Colour | int], object]  # draws a shape into a layer with a value


@dataclass(frozen=True)
class Garment:
    """A top as it lies on the table. Lengths are fractions of the flat garment's own size."""

    colour: Colour
    accent: Colour
    pattern: str
    motif: str  # a letter or a name of SHAPES; the stripes' direction
    scale: float  # of the pattern, 0..1
    phase: float
    long_sleeves: bool
    neckline: float  # depth, units of the picture's height
    v_neck: bool
    width: float  # half width at the hem


@dataclass(frozen=True)
class Person:
    """A body and its surroundings. Joints are points in units of the picture's height."""

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
    background: tuple[Colour, Colour]
    light: float  # -1 from the left .. 1 from the right


@dataclass(frozen=True)
class Doll:
    """One rendered pair. Images are H x W x 3 uint8 RGB; masks H x W uint8, 0 or 255.

    mask: the region to generate (255 = change). worn: the garment's own pixels on the person.
    """

    image: np.ndarray
    garment: np.ndarray
    garment_mask: np.ndarray
    agnostic: np.ndarray
    mask: np.ndarray
    densepose: np.ndarray
    worn: np.ndarray


def random_garment(rng: np.random.Generator) -> Garment:
    colour = _random_colour(rng)
    pattern = str(rng.choice(PATTERNS))
    motifs = {
        "stripes": ("across", "down", "diagonal"),
        "shape": SHAPES,
        "letter": tuple(string.ascii_uppercase),
    }
    return Garment(
        colour=colour,
        accent=_contrasting_colour(rng, colour),
        pattern=pattern,
        motif=str(rng.choice(motifs.get(pattern, ("",)))),
        scale=float(rng.uniform()),
        phase=float(rng.uniform()),
        long_sleeves=bool(rng.uniform() < 0.5),
        neckline=float(rng.uniform(0.03, 0.09)),
        v_neck=bool(rng.uniform() < 0.4),
        width=float(rng.uniform(0.155, 0.185)),
    )


def random_person(rng: np.random.Generator) -> Person:
    neck = np.array([ASPECT / 2 + rng.uniform(-0.04, 0.04), rng.uniform(0.25, 0.31)])
    tilt = rng.uniform(-0.06, 0.06)
    across, down = _rotated(tilt, 1, 0), _rotated(tilt, 0, 1)
    shoulder, hip = rng.uniform(0.10, 0.135), rng.uniform(0.078, 0.105)
    torso = rng.uniform(0.30, 0.36)
    shoulders, elbows, wrists, hips = [], [], [], []
    for side in (-1, 1):
        start = neck + side * shoulder * across + 0.02 * down
        upper = rng.uniform(0.05, 0.95)  # 0 hangs down, pi/2 is level
        bend = rng.uniform(-1.9, 0.9)  # negative brings the forearm in front of the body
        elbow = start + rng.uniform(0.15, 0.17) * _rotated(-side * upper, 0, 1)
        wrist = elbow + rng.uniform(0.12, 0.14) * _rotated(-side * (upper + bend), 0, 1)
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
        skin=_hsv(rng.uniform(0.04, 0.085), 0.28 + 0.37 * skin_tone, 0.97 - 0.55 * skin_tone),
        hair=_hsv(rng.uniform(0.02, 0.13), rng.uniform(0.2, 0.85), rng.uniform(0.08, 0.75)),
        trousers=_hsv(rng.uniform(), rng.uniform(0.05, 0.6), rng.uniform(0.12, 0.75)),
        background=(
            _hsv(rng.uniform(), rng.uniform(0, 0.25), rng.uniform(0.6, 1)),
            _hsv(rng.uniform(), rng.uniform(0, 0.25), rng.uniform(0.6, 1)),
        ),
        light=float(rng.uniform(-1, 1)),
    )


def draw(person: Person, garment: Garment, height: int) -> Doll:
    """The person wearing the garment. Pictures are height x (3/4 height); height in multiples of
    4, else ValueError."""
    if height % 4:
        raise ValueError(f"height must be a multiple of 4 (the width is 3/4 of it), got {height}")
    scale = height * SUPERSAMPLING
    texture, parts = _flat_garment(garment, scale)
    canvas = _Canvas(scale)
    canvas.backdrop(person.background)
    _draw_body(canvas, person)
    lit = 1 - 0.1 * (1 + person.light * np.linspace(-1, 1, canvas.image.shape[1]))
    for index, (source, target, part) in enumerate(_worn_parts(person, garment, parts, scale)):
        canvas.cloth(texture, source, target, part, lit * (SLEEVE_SHADE if index else 1))
    _draw_head(canvas, person)
    _draw_hands(canvas, person)
    mask = _change_mask(canvas, person)
    image = _reduced(canvas.image)
    mask = _reduced_mask(mask)
    agnostic = image.copy()
    agnostic[mask > 0] = GREY_LEVEL
    return Doll(
        image=image,
        garment=_reduced(_flat_picture(texture, parts)),
        garment_mask=_reduced_mask(np.maximum.reduce(parts)),
        agnostic=agnostic,
        mask=mask,
        densepose=_reduced_labels(canvas.parts),
        worn=_reduced_mask(canvas.worn),
    )


def _flat_picture(texture: np.ndarray, parts: list[np.ndarray]) -> np.ndarray:
    """The garment on white, with a faint outline: texture H x W x 3 and its part masks."""
    shape = np.maximum.reduce(parts)
    picture = np.where(shape[..., None] > 0, texture, 248).astype(np.uint8)
    outline, _ = cv2.findContours(shape, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outline, -1, (150, 150, 150), SUPERSAMPLING, cv2.LINE_AA)
    return picture


# The flat garment: where its bones lie on the table.
_FLAT_NECK = np.array([ASPECT / 2, 0.16])
_FLAT_SHOULDER = 0.155
_FLAT_TORSO = 0.62
_FLAT_ARM = (0.21, 0.19)
_FLAT_LIMB = 0.052
_FLAT_SLOPE = 0.42  # angle of the sleeves from the vertical


def _flat_arm(side: int) -> tuple[Point, Point, Point]:
    start = _FLAT_NECK + np.array([side * _FLAT_SHOULDER, 0.035])
    along = _rotated(-side * _FLAT_SLOPE, 0, 1)
    elbow = start + _FLAT_ARM[0] * along
    return start, elbow, elbow + _FLAT_ARM[1] * along


def _flat_garment(garment: Garment, scale: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Texture (rows, columns, 3) and the masks of its parts: torso, then sleeves upper left,
    upper right and, if they are long, lower left, lower right."""
    texture = _texture(garment, scale)
    x, y = _FLAT_NECK
    outline = [
        (x - _FLAT_SHOULDER, y + 0.01), (x - 0.06, y - 0.02), (x + 0.06, y - 0.02),
        (x + _FLAT_SHOULDER, y + 0.01), (x + _FLAT_SHOULDER * 0.98, y + 0.25),
        (x + garment.width, y + _FLAT_TORSO), (x - garment.width, y + _FLAT_TORSO),
        (x - _FLAT_SHOULDER * 0.98, y + 0.25),
    ]  # fmt: skip
    torso = _blank(scale)
    _polygon(np.array(outline), scale)(torso, 255)
    if garment.v_neck:
        notch = [(x - 0.06, y - 0.03), (x + 0.06, y - 0.03), (x, y + 1.4 * garment.neckline)]
        _polygon(np.array(notch), scale)(torso, 0)
    else:
        _ellipse(_FLAT_NECK - (0, 0.02), (0.058, garment.neckline), scale)(torso, 0)
    parts = [torso]
    arms = [_flat_arm(-1), _flat_arm(1)]
    for start, elbow, _ in arms:
        end = elbow if garment.long_sleeves else start + 0.62 * (elbow - start)
        parts.append(_sleeve(start, end, scale, cuff=not garment.long_sleeves))
    if garment.long_sleeves:
        parts += [_sleeve(elbow, wrist, scale, cuff=True) for _, elbow, wrist in arms]
    return texture, parts


def _sleeve(start: Point, end: Point, scale: int, cuff: bool) -> np.ndarray:
    """A capsule along the bone; with a cuff its far end is cut square."""
    mask = _blank(scale)
    _capsule(start, end, _FLAT_LIMB, scale)(mask, 255)
    if cuff:
        along = (end - start) / np.linalg.norm(end - start)
        across = np.array([-along[1], along[0]])
        corners = [end + 0.2 * across, end - 0.2 * across]
        beyond = [*corners, corners[1] + 0.2 * along, corners[0] + 0.2 * along]
        _polygon(np.array(beyond), scale)(mask, 0)
    return mask


def _texture(garment: Garment, scale: int) -> np.ndarray:
    rows, columns = scale, int(scale * ASPECT)
    texture = np.full((rows, columns, 3), garment.colour, np.uint8)
    period = (0.05 + 0.07 * garment.scale) * scale
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    if garment.pattern in ("stripes", "checks"):
        down, across = (y / period + garment.phase) % 1 < 0.5, (x / period) % 1 < 0.5
        diagonal = ((x + y) / (1.4 * period) + garment.phase) % 1 < 0.5
        lines = {"across": down, "down": across, "diagonal": diagonal}
        chosen = down ^ across if garment.pattern == "checks" else lines[garment.motif]
        texture[chosen] = garment.accent
    elif garment.pattern == "dots":
        shifted = x + (np.floor(y / period) % 2) * period / 2
        distance = np.hypot(shifted % period - period / 2, y % period - period / 2)
        texture[distance < 0.3 * period] = garment.accent
    elif garment.pattern in ("shape", "letter"):
        _motif(texture, garment, _FLAT_NECK + (0, 0.26), (0.075 + 0.03 * garment.scale), scale)
    return texture


def _motif(texture: np.ndarray, garment: Garment, centre: Point, radius: float, scale: int) -> None:
    place, size = _pixel(centre, scale), int(radius * scale)
    if garment.pattern == "letter":
        font, stroke = cv2.FONT_HERSHEY_SIMPLEX, max(1, size // 3)
        (_, reference), _ = cv2.getTextSize(garment.motif, font, 1, 1)
        factor = 2 * size / reference
        (width, tall), _ = cv2.getTextSize(garment.motif, font, factor, stroke)
        corner = (place[0] - width // 2, place[1] + tall // 2)
        cv2.putText(texture, garment.motif, corner, font, factor, garment.accent, stroke)
    elif garment.motif in ("disc", "ring"):
        thickness = -1 if garment.motif == "disc" else max(1, size // 3)
        cv2.circle(texture, place, size, garment.accent, thickness)
    else:
        corners = {"square": 4, "triangle": 3, "star": 10}[garment.motif]
        angles = np.arange(corners) * 2 * np.pi / corners - np.pi / 2
        angles += np.pi / 4 if garment.motif == "square" else 0
        reach = np.where((np.arange(corners) % 2 == 1) & (corners == 10), 0.45, 1.15) * radius
        points = centre + reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        cv2.fillPoly(texture, [_pixels(points, scale)], garment.accent)


class _Canvas:
    """The picture, the DensePose parts and the worn garment's mask, drawn together."""

    def __init__(self, scale: int):
        self.scale = scale
        self.parts = _blank(scale)
        self.worn = _blank(scale)
        self.image = np.zeros((*self.parts.shape, 3), np.uint8)

    def backdrop(self, colours: tuple[Colour, Colour]) -> None:
        ends = np.array(colours, np.uint8)[:, None]  # 2 x 1 x 3, top and bottom
        self.image = cv2.resize(ends, self.image.shape[1::-1], interpolation=cv2.INTER_LINEAR)

    def fill(self, draw: Draw, colour: Colour, part: int | None) -> None:
        """Draw a shape that lies over the garment; part None leaves the DensePose parts alone."""
        draw(self.image, colour)
        draw(self.worn, 0)
        if part is not None:
            draw(self.parts, part)

    def limb(self, a: Point, b: Point, radius: float, colour: Colour, part: int | None) -> None:
        self.fill(_capsule(a, b, radius, self.scale), colour, part)

    def cloth(
        self, texture: np.ndarray, source: np.ndarray, target: np.ndarray, part: np.ndarray,
        shade: np.ndarray,
    ) -> None:  # fmt: skip
        """Warp one part of the flat garment: four source points to four target points. shade: a
        factor for each column."""
        matrix = cv2.getPerspectiveTransform(source.astype(np.float32), target.astype(np.float32))
        size = self.image.shape[1::-1]
        alpha = cv2.warpPerspective(part, matrix, size) > 127
        warped = cv2.warpPerspective(texture, matrix, size, borderMode=cv2.BORDER_REPLICATE)
        rows, columns = np.nonzero(alpha)
        self.image[rows, columns] = warped[rows, columns] * shade[columns, None]
        self.worn[alpha] = 255


def _draw_body(canvas: _Canvas, person: Person) -> None:
    left, right = person.hips
    middle = (left + right) / 2
    for hip, part in zip(person.hips, UPPER_LEGS, strict=True):
        foot = np.array([hip[0] + 0.25 * (hip[0] - middle[0]), 1.05])
        top = hip + 0.42 * (middle - hip) + (0, 0.05)
        radius = 0.36 * float(np.linalg.norm(right - left))
        canvas.limb(top, foot, radius, person.trousers, part)
    canvas.limb(person.neck - (0, 0.06), person.neck + (0, 0.03), 0.045, person.skin, HEAD)
    torso = np.array([*person.shoulders, right, left])
    canvas.fill(_polygon(torso, canvas.scale), person.skin, TORSO)
    for side in (0, 1):
        shoulder, elbow, wrist = person.shoulders[side], person.elbows[side], person.wrists[side]
        canvas.limb(shoulder, elbow, person.limb, person.skin, UPPER_ARMS[side])
        canvas.limb(elbow, wrist, 0.85 * person.limb, person.skin, LOWER_ARMS[side])


def _draw_head(canvas: _Canvas, person: Person) -> None:
    centre, radius = person.neck - (0, 0.115), person.head_radius
    scale = canvas.scale
    length = min(person.hair_length, 1.3) * radius
    for side in (-1, 1):
        top = centre + np.array([side * 0.9 * radius, 0])
        canvas.limb(top, top + (0, length), 0.3 * radius, person.hair, None)
    crown = _ellipse(centre - (0, 0.12 * radius), (1.16 * radius, 1.32 * radius), scale)
    canvas.fill(crown, person.hair, HEAD)
    face = _ellipse(centre + (0, 0.12 * radius), (0.86 * radius, 1.12 * radius), scale)
    canvas.fill(face, person.skin, HEAD)
    fringe = _ellipse(centre - (0, 0.78 * radius), (0.8 * radius, 0.42 * radius), scale)
    canvas.fill(fringe, person.hair, None)
    dark = _scaled(person.skin, 0.35)
    for side in (-1, 1):
        eye = centre + np.array([side * 0.36 * radius, 0.1 * radius])
        canvas.fill(_ellipse(eye, (0.1 * radius, 0.1 * radius), scale), dark, None)
    mouth = _ellipse(centre + np.array([0, 0.62 * radius]), (0.3 * radius, 0.08 * radius), scale)
    canvas.fill(mouth, (176, 74, 74), None)


def _draw_hands(canvas: _Canvas, person: Person) -> None:
    for hand, part in zip(_hands(person, canvas.scale), HANDS, strict=True):
        canvas.fill(hand, person.skin, part)


def _hands(person: Person, scale: int) -> list[Draw]:
    regions = []
    for elbow, wrist in zip(person.elbows, person.wrists, strict=True):
        along = person.limb * (wrist - elbow) / np.linalg.norm(wrist - elbow)
        regions.append(_capsule(wrist + along, wrist + 1.5 * along, person.limb, scale))
    return regions


def _worn_parts(
    person: Person, garment: Garment, parts: list[np.ndarray], scale: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Where each flat part goes on the body: (source points, target points, part mask)."""
    left, right = person.shoulders
    across = (right - left) / np.linalg.norm(right - left)
    down = np.array([-across[1], across[0]])
    flat_x, flat_y = _FLAT_NECK
    flat_top, flat_bottom = flat_y + 0.035, flat_y + _FLAT_TORSO
    source = np.array([
        (flat_x - _FLAT_SHOULDER, flat_top), (flat_x + _FLAT_SHOULDER, flat_top),
        (flat_x + 0.16, flat_bottom), (flat_x - 0.16, flat_bottom),
    ])  # fmt: skip
    ease, hem = 0.012, 0.045
    target = np.array([
        left - ease * across, right + ease * across,
        person.hips[1] + 0.022 * across + hem * down, person.hips[0] - 0.022 * across + hem * down,
    ])  # fmt: skip
    placed = [(source * scale, target * scale, parts[0])]
    arms = [_flat_arm(-1), _flat_arm(1)]
    joints = (person.shoulders, person.elbows, person.wrists)
    radius = 1.28 * person.limb
    for segment in range(2 if garment.long_sleeves else 1):
        for side in (0, 1):
            flat = (arms[side][segment], arms[side][segment + 1])
            bone = (joints[segment][side], joints[segment + 1][side])
            part = parts[1 + 2 * segment + side]
            placed.append((_along(*flat, _FLAT_LIMB, scale), _along(*bone, radius, scale), part))
    return placed


def _along(start: Point, end: Point, radius: float, scale: int) -> np.ndarray:
    """The four corners of a bone's rectangle."""
    along = (end - start) / np.linalg.norm(end - start)
    across = radius * np.array([-along[1], along[0]])
    return np.array([start - across, start + across, end + across, end - across]) * scale


def _change_mask(canvas: _Canvas, person: Person) -> np.ndarray:
    """Everything that any top could cover, whatever is worn: torso and arms with a margin, without
    the head and the hands."""
    scale, mask = canvas.scale, _blank(canvas.scale)
    left, right = person.hips
    across = (right - left) / np.linalg.norm(right - left)
    down = np.array([-across[1], across[0]])
    margin = 0.06
    torso = np.array([
        person.shoulders[0], person.neck - (0, 0.01), person.shoulders[1],
        right + margin * (across + down), left + margin * (down - across),
    ])  # fmt: skip
    _polygon(torso, scale)(mask, 255)
    cv2.polylines(mask, [_pixels(torso, scale)], True, 255, int(0.05 * scale))
    _capsule(person.neck - (0, 0.015), person.neck, 0.06, scale)(mask, 255)
    for side in (0, 1):
        shoulder, elbow, wrist = person.shoulders[side], person.elbows[side], person.wrists[side]
        _capsule(shoulder, elbow, 1.75 * person.limb, scale)(mask, 255)
        _capsule(elbow, wrist, 1.75 * person.limb, scale)(mask, 255)
    head = canvas.parts == HEAD
    head[int((person.neck[1] - 0.05) * scale) :] = False
    mask[head] = 0
    for hand in _hands(person, scale):
        hand(mask, 0)
    return mask


def _blank(scale: int) -> np.ndarray:
    return np.zeros((scale, int(scale * ASPECT)), np.uint8)


def _pixel(point: Point, scale: int) -> tuple[int, int]:
    return round(point[0] * scale), round(point[1] * scale)


def _pixels(points: np.ndarray, scale: int) -> np.ndarray:
    return np.round(points * scale).astype(np.int32)


def _polygon(points: np.ndarray, scale: int) -> Draw:
    corners = [_pixels(points, scale)]
    return lambda layer, value: cv2.fillPoly(layer, corners, value)


def _capsule(a: Point, b: Point, radius: float, scale: int) -> Draw:
    start, end, width = _pixel(a, scale), _pixel(b, scale), max(1, int(2 * radius * scale))
    return lambda layer, value: cv2.line(layer, start, end, value, width)


def _ellipse(centre: Point, radii: tuple[float, float], scale: int) -> Draw:
    place = _pixel(centre, scale)
    axes = (max(1, int(radii[0] * scale)), max(1, int(radii[1] * scale)))
    return lambda layer, value: cv2.ellipse(layer, place, axes, 0, 0, 360, value, -1)


def _scaled(colour: Colour, factor: float) -> Colour:
    red, green, blue = colour
    return int(factor * red), int(factor * green), int(factor * blue)


def _rotated(angle: float, x: float, y: float) -> Point:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([c * x - s * y, s * x + c * y])


def _reduced(image: np.ndarray) -> np.ndarray:
    size = (image.shape[1] // SUPERSAMPLING, image.shape[0] // SUPERSAMPLING)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _reduced_mask(mask: np.ndarray) -> np.ndarray:
    return np.where(_reduced(mask) >= 128, 255, 0).astype(np.uint8)


def _reduced_labels(parts: np.ndarray) -> np.ndarray:
    return colour_parts(parts[::SUPERSAMPLING, ::SUPERSAMPLING])


def _hsv(hue: float, saturation: float, value: float) -> Colour:
    r, g, b = colorsys.hsv_to_rgb(hue, saturation, value)
    return int(255 * r), int(255 * g), int(255 * b)


def _random_colour(rng: np.random.Generator) -> Colour:
    if rng.uniform() < 0.2:
        return _hsv(0, 0, rng.uniform(0.08, 0.97))
    return _hsv(rng.uniform(), rng.uniform(0.4, 0.95), rng.uniform(0.35, 0.97))


def _contrasting_colour(rng: np.random.Generator, colour: Colour) -> Colour:
    """A second colour at least a third of the RGB cube's edge away, in the mean of the channels."""
    while True:
        other = _random_colour(rng)
        if np.abs(np.subtract(other, colour)).mean() >= 85:
            return other
