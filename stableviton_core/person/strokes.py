"""Shapes drawn into masks, and margins around them. Masks are H x W, points x and y in pixels."""

from collections.abc import Sequence

import cv2
import numpy as np


class Strokes:
    """A mask to draw into as PIL draws: lines with square ends. mask: H x W uint8, 0 or 255."""

    def __init__(self, height: int, width: int):
        self.mask = np.zeros((height, width), np.uint8)

    def draw_ellipse(self, centre: np.ndarray, x: float, y: float) -> None:
        """x, y: half axes."""
        point = (int(round(centre[0])), int(round(centre[1])))
        axes = (max(1, round(x)), max(1, round(y)))
        cv2.ellipse(self.mask, point, axes, 0, 0, 360, 255, -1)

    def draw_line(self, start: np.ndarray, end: np.ndarray, width: float) -> None:
        along = end - start
        length = float(np.linalg.norm(along))
        if length == 0:
            return
        across = np.array([-along[1], along[0]]) / length * width / 2
        self.draw_polygon([start + across, end + across, end - across, start - across])

    def draw_polygon(self, corners: Sequence[np.ndarray]) -> None:
        cv2.fillPoly(self.mask, [np.round(np.stack(corners)).astype(np.int32)], 255)

    def draw_rectangle(self, left: float, top: float, right: float, bottom: float) -> None:
        corners = ((left, top), (right, top), (right, bottom), (left, bottom))
        self.draw_polygon([np.array(corner) for corner in corners])


def dilate(mask: np.ndarray, radius: float) -> np.ndarray:
    """A bool mask grown by a radius in pixels in all directions, by at least one; eroded where the
    radius is negative."""
    if radius < 0:
        return ~dilate(~mask, -radius)
    if not mask.any():
        return mask
    outside = (~mask).astype(np.uint8)
    return cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= max(1.0, radius)


def open_mask(mask: np.ndarray, radius: float) -> np.ndarray:
    """A bool mask without what is thinner than twice a radius in pixels."""
    return dilate(dilate(mask, -radius), radius)


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """A bool mask with the regions that it encloses."""
    outside = np.pad((~mask).astype(np.uint8), 1, constant_values=1)
    cv2.floodFill(outside, None, (0, 0), 2)
    return mask | (outside[1:-1, 1:-1] == 1)
