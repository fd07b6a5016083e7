"""Shapes, layers and colours of the renderer.

Coordinates are in units of the image's height: x in 0..0.75, y in 0..1, y down; "left" is the left
of the image. Layers are drawn at SUPERSAMPLING times the output size. scale: height of a layer in
pixels.
"""

import colorsys
from collections.abc import Callable

import cv2
import numpy as np

from ..person.densepose import colour_parts

SUPERSAMPLING = 2
ASPECT = 0.75  # width / height

Colour = tuple[int, int, int]
Point = np.ndarray
Shape = Callable[[np.ndarray, Colour | int], object]  # fills a shape of a layer with a value


def create_layer(scale: int) -> np.ndarray:
    return np.zeros((scale, int(scale * ASPECT)), np.uint8)


def to_pixel(point: Point, scale: int) -> tuple[int, int]:
    return round(point[0] * scale), round(point[1] * scale)


def to_pixels(points: np.ndarray, scale: int) -> np.ndarray:
    return np.round(points * scale).astype(np.int32)


def make_polygon(points: np.ndarray, scale: int) -> Shape:
    corners = [to_pixels(points, scale)]
    return lambda layer, value: cv2.fillPoly(layer, corners, value)


def make_capsule(start: Point, end: Point, radius: float, scale: int) -> Shape:
    """All points within a radius of a line."""
    ends, width = (to_pixel(start, scale), to_pixel(end, scale)), max(1, int(2 * radius * scale))
    return lambda layer, value: cv2.line(layer, *ends, value, width)


def make_ellipse(centre: Point, radii: tuple[float, float], scale: int) -> Shape:
    middle = to_pixel(centre, scale)
    axes = (max(1, int(radii[0] * scale)), max(1, int(radii[1] * scale)))
    return lambda layer, value: cv2.ellipse(layer, middle, axes, 0, 0, 360, value, -1)


def rotate(angle: float, x: float, y: float) -> Point:
    """A vector turned by an angle in radians, clockwise in the image."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([c * x - s * y, s * x + c * y])


def downsample_image(image: np.ndarray) -> np.ndarray:
    """A layer at the output size, by area averages."""
    size = (image.shape[1] // SUPERSAMPLING, image.shape[0] // SUPERSAMPLING)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def downsample_mask(mask: np.ndarray) -> np.ndarray:
    return np.where(downsample_image(mask) >= 128, 255, 0).astype(np.uint8)


def downsample_parts(parts: np.ndarray) -> np.ndarray:
    """DensePose part indices as an H x W x 3 image at the output size."""
    return colour_parts(parts[::SUPERSAMPLING, ::SUPERSAMPLING])


def from_hsv(hue: float, saturation: float, value: float) -> Colour:
    """0..1 each -> RGB in 0..255."""
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return int(255 * red), int(255 * green), int(255 * blue)


def scale_colour(colour: Colour, factor: float) -> Colour:
    red, green, blue = colour
    return int(factor * red), int(factor * green), int(factor * blue)
