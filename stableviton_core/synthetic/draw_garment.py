"""Random garments, drawn as flat product images."""

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
    create_layer,
    from_hsv,
    make_capsule,
    make_ellipse,
    make_polygon,
    rotate,
    to_pixel,
    to_pixels,
)

PATTERNS = ("plain", "stripes", "checks", "dots", "shape", "letter")
PATCHWORK = "patchwork"  # many colours, so that every region is unique
SHAPES = ("disc", "square", "triangle", "star", "ring")

# Skeleton of the flat garment, in units of the image's height.
FLAT_NECK = np.array([ASPECT / 2, 0.16])
FLAT_SHOULDER = 0.155
FLAT_TORSO = 0.62
FLAT_ARM = (0.21, 0.19)
FLAT_LIMB = 0.052
FLAT_SLOPE = 0.42  # angle of the sleeves from the vertical


@dataclass(frozen=True)
class Garment:
    """A top. Lengths are in units of the height of the flat image."""

    colour: Colour
    accent: Colour
    pattern: str
    motif: str  # a letter, a name of SHAPES, or the direction of stripes
    scale: float  # of the pattern, 0..1
    phase: float  # of the pattern, 0..1; the seed of a patchwork's colours
    long_sleeves: bool
    neckline: float  # depth
    v_neck: bool
    width: float  # half width at the hem


def generate_garment(rng: np.random.Generator, patterns: Sequence[str] = PATTERNS) -> Garment:
    """patterns: names of PATTERNS, or PATCHWORK; a name given twice is twice as likely."""
    colour = _generate_colour(rng)
    pattern = str(rng.choice(patterns))
    motifs = {
        "stripes": ("across", "down", "diagonal"),
        "shape": SHAPES,
        "letter": tuple(string.ascii_uppercase),
    }
    return Garment(
        colour=colour,
        accent=_generate_contrasting_colour(rng, colour),
        pattern=pattern,
        motif=str(rng.choice(motifs.get(pattern, ("",)))),
        scale=float(rng.uniform()),
        phase=float(rng.uniform()),
        long_sleeves=bool(rng.uniform() < 0.5),
        neckline=float(rng.uniform(0.03, 0.09)),
        v_neck=bool(rng.uniform() < 0.4),
        width=float(rng.uniform(0.155, 0.185)),
    )


def _generate_colour(rng: np.random.Generator) -> Colour:
    if rng.uniform() < 0.2:
        return from_hsv(0, 0, rng.uniform(0.08, 0.97))
    return from_hsv(rng.uniform(), rng.uniform(0.4, 0.95), rng.uniform(0.35, 0.97))


def _generate_contrasting_colour(rng: np.random.Generator, colour: Colour) -> Colour:
    """A colour that differs by at least 85 of 255 in the mean of the channels."""
    while True:
        other = _generate_colour(rng)
        if np.abs(np.subtract(other, colour)).mean() >= 85:
            return other


def compose_flat_image(texture: np.ndarray, parts: list[np.ndarray]) -> np.ndarray:
    """The garment on white with a faint outline. texture: H x W x 3; parts: masks H x W."""
    shape = np.maximum.reduce(parts)
    image = np.where(shape[..., None] > 0, texture, 248).astype(np.uint8)
    outline, _ = cv2.findContours(shape, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, outline, -1, (150, 150, 150), SUPERSAMPLING, cv2.LINE_AA)
    return image


def draw_flat_garment(garment: Garment, scale: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Texture H x W x 3 and masks H x W of the parts: torso, sleeves upper left, upper right and,
    if they are long, lower left, lower right."""
    texture = _draw_texture(garment, scale)
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
    torso = create_layer(scale)
    make_polygon(np.array(outline), scale)(torso, 255)
    if garment.v_neck:
        notch = [(x - 0.06, y - 0.03), (x + 0.06, y - 0.03), (x, y + 1.4 * garment.neckline)]
        make_polygon(np.array(notch), scale)(torso, 0)
    else:
        make_ellipse(FLAT_NECK - (0, 0.02), (0.058, garment.neckline), scale)(torso, 0)
    parts = [torso]
    arms = [place_flat_arm(-1), place_flat_arm(1)]
    for start, elbow, _ in arms:
        end = elbow if garment.long_sleeves else start + 0.62 * (elbow - start)
        parts.append(_draw_sleeve(start, end, scale, cuff=not garment.long_sleeves))
    if garment.long_sleeves:
        parts += [_draw_sleeve(elbow, wrist, scale, cuff=True) for _, elbow, wrist in arms]
    return texture, parts


def place_flat_arm(side: int) -> tuple[Point, Point, Point]:
    """Shoulder, elbow and wrist of the flat garment. side: -1 left, 1 right."""
    start = FLAT_NECK + np.array([side * FLAT_SHOULDER, 0.035])
    along = rotate(-side * FLAT_SLOPE, 0, 1)
    elbow = start + FLAT_ARM[0] * along
    return start, elbow, elbow + FLAT_ARM[1] * along


def _draw_sleeve(start: Point, end: Point, scale: int, cuff: bool) -> np.ndarray:
    """Mask of a capsule along a bone. cuff: cut its end square."""
    mask = create_layer(scale)
    make_capsule(start, end, FLAT_LIMB, scale)(mask, 255)
    if cuff:
        along = (end - start) / np.linalg.norm(end - start)
        across = np.array([-along[1], along[0]])
        corners = [end + 0.2 * across, end - 0.2 * across]
        beyond = [*corners, corners[1] + 0.2 * along, corners[0] + 0.2 * along]
        make_polygon(np.array(beyond), scale)(mask, 0)
    return mask


def _draw_texture(garment: Garment, scale: int) -> np.ndarray:
    rows, columns = scale, int(scale * ASPECT)
    texture = np.full((rows, columns, 3), garment.colour, np.uint8)
    period = (0.05 + 0.07 * garment.scale) * scale
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    if garment.pattern in ("stripes", "checks"):
        down, across = (y / period + garment.phase) % 1 < 0.5, (x / period) % 1 < 0.5
        diagonal = ((x + y) / (1.4 * period) + garment.phase) % 1 < 0.5
        lines = {"across": down, "down": across, "diagonal": diagonal}
        accented = down ^ across if garment.pattern == "checks" else lines[garment.motif]
        texture[accented] = garment.accent
    elif garment.pattern == "dots":
        shifted = x + (np.floor(y / period) % 2) * period / 2
        distance = np.hypot(shifted % period - period / 2, y % period - period / 2)
        texture[distance < 0.3 * period] = garment.accent
    elif garment.pattern == PATCHWORK:
        _draw_patches(texture, garment, scale)
    elif garment.pattern in ("shape", "letter"):
        _draw_motif(texture, garment, FLAT_NECK + (0, 0.26), (0.075 + 0.03 * garment.scale), scale)
    return texture


def _draw_patches(texture: np.ndarray, garment: Garment, scale: int) -> None:
    rng = np.random.default_rng(int(garment.phase * 2**32))
    size = (0.07 + 0.11 * garment.scale) * scale
    rows, columns = (np.arange(length) // size for length in texture.shape[:2])
    count = (int(rows[-1]) + 1, int(columns[-1]) + 1)
    colours = np.array([_generate_colour(rng) for _ in range(count[0] * count[1])], np.uint8)
    texture[:] = colours.reshape(*count, 3)[rows.astype(int)[:, None], columns.astype(int)]


def _draw_motif(
    texture: np.ndarray, garment: Garment, centre: Point, radius: float, scale: int
) -> None:
    middle, size = to_pixel(centre, scale), int(radius * scale)
    if garment.pattern == "letter":
        font, stroke = cv2.FONT_HERSHEY_SIMPLEX, max(1, size // 3)
        (_, reference), _ = cv2.getTextSize(garment.motif, font, 1, 1)
        factor = 2 * size / reference
        (width, tall), _ = cv2.getTextSize(garment.motif, font, factor, stroke)
        corner = (middle[0] - width // 2, middle[1] + tall // 2)
        cv2.putText(texture, garment.motif, corner, font, factor, garment.accent, stroke)
    elif garment.motif in ("disc", "ring"):
        thickness = -1 if garment.motif == "disc" else max(1, size // 3)
        cv2.circle(texture, middle, size, garment.accent, thickness)
    else:
        corners = {"square": 4, "triangle": 3, "star": 10}[garment.motif]
        angles = np.arange(corners) * 2 * np.pi / corners - np.pi / 2
        angles += np.pi / 4 if garment.motif == "square" else 0
        reach = np.where((np.arange(corners) % 2 == 1) & (corners == 10), 0.45, 1.15) * radius
        points = centre + reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        cv2.fillPoly(texture, [to_pixels(points, scale)], garment.accent)
