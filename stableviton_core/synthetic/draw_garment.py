"""Drawn garments, lying on the table."""

import string
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .shapes import (
    ASPECT,
    SUPERSAMPLING,
    Colour,
    Point,
    blank,
    capsule,
    ellipse,
    hsv,
    pixel,
    pixels,
    polygon,
    rotated,
)

PATTERNS = ("plain", "stripes", "checks", "dots", "shape", "letter")
PATCHWORK = "patchwork"  # of many colours; no place looks like another
SHAPES = ("disc", "square", "triangle", "star", "ring")

# Where the bones of the flat garment lie.
FLAT_NECK = np.array([ASPECT / 2, 0.16])
FLAT_SHOULDER = 0.155
FLAT_TORSO = 0.62
FLAT_ARM = (0.21, 0.19)
FLAT_LIMB = 0.052
FLAT_SLOPE = 0.42  # angle of the sleeves from the vertical


@dataclass(frozen=True)
class Garment:
    """A top as it lies on the table. Lengths are fractions of the flat garment's own size."""

    colour: Colour
    accent: Colour
    pattern: str
    motif: str  # a letter or a name of SHAPES; the stripes' direction
    scale: float  # of the pattern, 0..1
    phase: float  # 0..1; of a patchwork, what its colours follow from
    long_sleeves: bool
    neckline: float  # depth, units of the picture's height
    v_neck: bool
    width: float  # half width at the hem


def random_garment(rng: np.random.Generator, patterns: Sequence[str] = PATTERNS) -> Garment:
    """patterns: of PATTERNS and PATCHWORK; a name given twice comes twice as often."""
    colour = _random_colour(rng)
    pattern = str(rng.choice(patterns))
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


def _random_colour(rng: np.random.Generator) -> Colour:
    if rng.uniform() < 0.2:
        return hsv(0, 0, rng.uniform(0.08, 0.97))
    return hsv(rng.uniform(), rng.uniform(0.4, 0.95), rng.uniform(0.35, 0.97))


def _contrasting_colour(rng: np.random.Generator, colour: Colour) -> Colour:
    """A second colour at least a third of the RGB cube's edge away, in the mean of the channels."""
    while True:
        other = _random_colour(rng)
        if np.abs(np.subtract(other, colour)).mean() >= 85:
            return other


def flat_picture(texture: np.ndarray, parts: list[np.ndarray]) -> np.ndarray:
    """The garment on white, with a faint outline: texture H x W x 3 and its part masks."""
    shape = np.maximum.reduce(parts)
    picture = np.where(shape[..., None] > 0, texture, 248).astype(np.uint8)
    outline, _ = cv2.findContours(shape, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outline, -1, (150, 150, 150), SUPERSAMPLING, cv2.LINE_AA)
    return picture


def flat_garment(garment: Garment, scale: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Texture (rows, columns, 3) and the masks of its parts: torso, then sleeves upper left,
    upper right and, if they are long, lower left, lower right."""
    texture = _texture(garment, scale)
    x, y = FLAT_NECK
    outline = [
        (x - FLAT_SHOULDER, y + 0.01),
        (x - 0.06, y - 0.02),
        (x + 0.06, y - 0.02),
        (x + FLAT_SHOULDER, y + 0.01),
        (x + FLAT_SHOULDER * 0.98, y + 0.25),
        (x + garment.width, y + FLAT_TORSO),
        (x - garment.width, y + FLAT_TORSO),
        (x - FLAT_SHOULDER * 0.98, y + 0.25),
    ]
    torso = blank(scale)
    polygon(np.array(outline), scale)(torso, 255)
    if garment.v_neck:
        notch = [(x - 0.06, y - 0.03), (x + 0.06, y - 0.03), (x, y + 1.4 * garment.neckline)]
        polygon(np.array(notch), scale)(torso, 0)
    else:
        ellipse(FLAT_NECK - (0, 0.02), (0.058, garment.neckline), scale)(torso, 0)
    parts = [torso]
    arms = [flat_arm(-1), flat_arm(1)]
    for start, elbow, _ in arms:
        end = elbow if garment.long_sleeves else start + 0.62 * (elbow - start)
        parts.append(_sleeve(start, end, scale, cuff=not garment.long_sleeves))
    if garment.long_sleeves:
        parts += [_sleeve(elbow, wrist, scale, cuff=True) for _, elbow, wrist in arms]
    return texture, parts


def flat_arm(side: int) -> tuple[Point, Point, Point]:
    start = FLAT_NECK + np.array([side * FLAT_SHOULDER, 0.035])
    along = rotated(-side * FLAT_SLOPE, 0, 1)
    elbow = start + FLAT_ARM[0] * along
    return start, elbow, elbow + FLAT_ARM[1] * along


def _sleeve(start: Point, end: Point, scale: int, cuff: bool) -> np.ndarray:
    """A capsule along the bone; with a cuff its far end is cut square."""
    mask = blank(scale)
    capsule(start, end, FLAT_LIMB, scale)(mask, 255)
    if cuff:
        along = (end - start) / np.linalg.norm(end - start)
        across = np.array([-along[1], along[0]])
        corners = [end + 0.2 * across, end - 0.2 * across]
        beyond = [*corners, corners[1] + 0.2 * along, corners[0] + 0.2 * along]
        polygon(np.array(beyond), scale)(mask, 0)
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
    elif garment.pattern == PATCHWORK:
        _patches(texture, garment, scale)
    elif garment.pattern in ("shape", "letter"):
        _motif(texture, garment, FLAT_NECK + (0, 0.26), (0.075 + 0.03 * garment.scale), scale)
    return texture


def _patches(texture: np.ndarray, garment: Garment, scale: int) -> None:
    rng = np.random.default_rng(int(garment.phase * 2**32))
    size = (0.07 + 0.11 * garment.scale) * scale
    rows, columns = (np.arange(length) // size for length in texture.shape[:2])
    count = (int(rows[-1]) + 1, int(columns[-1]) + 1)
    colours = np.array([_random_colour(rng) for _ in range(count[0] * count[1])], np.uint8)
    texture[:] = colours.reshape(*count, 3)[rows.astype(int)[:, None], columns.astype(int)]


def _motif(texture: np.ndarray, garment: Garment, centre: Point, radius: float, scale: int) -> None:
    place, size = pixel(centre, scale), int(radius * scale)
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
        cv2.fillPoly(texture, [pixels(points, scale)], garment.accent)
