"""Shapes drawn into layers, and colours. Coordinates are in units of the picture's height."""

import colorsys
from collections.abc import Callable

import cv2
import numpy as np

from ..person.densepose import colour_parts

SUPERSAMPLING = 2
ASPECT = 0.75

Colour = tuple[int, int, int]
Point = np.ndarray
Draw = Callable[[np.ndarray, Colour | int], object]  # draws a shape into a layer with a value


def blank(scale: int) -> np.ndarray:
    return np.zeros((scale, int(scale * ASPECT)), np.uint8)


def pixel(point: Point, scale: int) -> tuple[int, int]:
    return round(point[0] * scale), round(point[1] * scale)


def pixels(points: np.ndarray, scale: int) -> np.ndarray:
    return np.round(points * scale).astype(np.int32)


def polygon(points: np.ndarray, scale: int) -> Draw:
    corners = [pixels(points, scale)]
    return lambda layer, value: cv2.fillPoly(layer, corners, value)


def capsule(a: Point, b: Point, radius: float, scale: int) -> Draw:
    start, end, width = pixel(a, scale), pixel(b, scale), max(1, int(2 * radius * scale))
    return lambda layer, value: cv2.line(layer, start, end, value, width)


def ellipse(centre: Point, radii: tuple[float, float], scale: int) -> Draw:
    place = pixel(centre, scale)
    axes = (max(1, int(radii[0] * scale)), max(1, int(radii[1] * scale)))
    return lambda layer, value: cv2.ellipse(layer, place, axes, 0, 0, 360, value, -1)


def rotated(angle: float, x: float, y: float) -> Point:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([c * x - s * y, s * x + c * y])


def reduced(image: np.ndarray) -> np.ndarray:
    size = (image.shape[1] // SUPERSAMPLING, image.shape[0] // SUPERSAMPLING)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def reduced_mask(mask: np.ndarray) -> np.ndarray:
    return np.where(reduced(mask) >= 128, 255, 0).astype(np.uint8)


def reduced_labels(parts: np.ndarray) -> np.ndarray:
    return colour_parts(parts[::SUPERSAMPLING, ::SUPERSAMPLING])


def hsv(hue: float, saturation: float, value: float) -> Colour:
    r, g, b = colorsys.hsv_to_rgb(hue, saturation, value)
    return int(255 * r), int(255 * g), int(255 * b)


def scaled(colour: Colour, factor: float) -> Colour:
    red, green, blue = colour
    return int(factor * red), int(factor * green), int(factor * blue)
