"""Images of a correspondence field: the garment coloured by position and the person by where each
point came from, matching dots, and a heat map. All IMAGEs on the CPU."""

import cv2
import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ..image_tensors import to_images
from .attention_summary import locate_tokens
from .field import CorrespondenceField

# Of the garment's corners: upper left and right, lower left and right. Between them bilinear.
CORNERS = (((0.10, 0.35, 0.95), (0.95, 0.15, 0.50)), ((0.05, 0.75, 0.45), (1.00, 0.80, 0.10)))
LINES = 8  # of a grid across the garment, to see how it bends
LINE_WIDTH = 0.06  # of the distance between lines
COLOUR_SHARE = 0.75  # against the grey image below
DOTS = (6, 5)  # rows and columns of matching dots across the garment
DOT_RADIUS = 0.011  # of the image's height
FARTHEST = 0.03  # of the garment's side: a dot is drawn where the field comes so near
SHOWN = 0.1  # confidence from which the field is shown


def draw_side_by_side(
    garment: Tensor, garment_mask: Tensor, tryon: Tensor, field: CorrespondenceField
) -> Tensor:
    """Garment and person, both coloured by garment position, B x H x 2 W x 3.

    garment and tryon: IMAGE of the field's size; garment_mask: 1 = garment.
    """
    positions = locate_tokens(field.size).expand(len(field), -1, -1)
    positions = rearrange(positions, "b (h w) c -> b h w c", h=field.size[0])
    _, shown = field.warp_image(garment, garment_mask)
    shown = shown * (field.confidence > SHOWN)
    return torch.cat(
        [_colour(garment, positions, garment_mask), _colour(tryon, field.coordinates, shown)], dim=2
    )


def _colour(image: Tensor, positions: Tensor, share: Tensor) -> Tensor:
    """A grey image under the colours of garment positions B x H x W x 2 and the lines of a grid,
    where share is 1."""
    luma = image.mean(dim=-1, keepdim=True)
    cells = positions * LINES
    on_line = ((cells - cells.round()).abs() < LINE_WIDTH / 2).any(dim=-1, keepdim=True)
    colours = colour_positions(positions) * (0.6 + 0.4 * luma)
    colours = torch.where(on_line, colours * 0.5, colours)
    alpha = COLOUR_SHARE * share[..., None]
    return (0.25 + 0.75 * luma) * (1 - alpha) + colours * alpha


def colour_positions(positions: Tensor) -> Tensor:
    """Positions (x, y) in 0..1, ... x 2 -> RGB in 0..1, ... x 3."""
    x, y = (positions[..., i, None].clamp(0, 1) for i in (0, 1))
    corners = torch.tensor(CORNERS).to(positions)
    upper = corners[0, 0] * (1 - x) + corners[0, 1] * x
    lower = corners[1, 0] * (1 - x) + corners[1, 1] * x
    return upper * (1 - y) + lower * y


def draw_dots(
    garment: Tensor, garment_mask: Tensor, tryon: Tensor, field: CorrespondenceField
) -> Tensor:
    """Garment and person side by side, with dots of one colour at points that match. Inputs as
    those of `draw_side_by_side`."""
    return torch.stack(
        [
            torch.from_numpy(_draw_dots(*(value.numpy() for value in item)))
            for item in zip(
                garment, garment_mask, tryon, field.coordinates, field.confidence, strict=True
            )
        ]
    )


def _draw_dots(
    garment: np.ndarray,
    garment_mask: np.ndarray,
    tryon: np.ndarray,
    coordinates: np.ndarray,
    confidence: np.ndarray,
) -> np.ndarray:
    height, width = confidence.shape
    drawn = np.ascontiguousarray(np.concatenate([garment, tryon], axis=1))
    for point, (column, row) in _match_points(garment_mask, coordinates, confidence):
        colour = colour_positions(torch.from_numpy(point)).tolist()
        start = tuple((point * (width, height)).astype(int).tolist())
        for centre in (start, (width + column, row)):
            radius = max(2, round(DOT_RADIUS * height))
            cv2.circle(drawn, centre, radius + 1, (0, 0, 0), -1, cv2.LINE_AA)
            cv2.circle(drawn, centre, radius, colour, -1, cv2.LINE_AA)
    return drawn


def _match_points(
    garment_mask: np.ndarray, coordinates: np.ndarray, confidence: np.ndarray
) -> list[tuple[np.ndarray, tuple[int, int]]]:
    """Points of a lattice across the garment, each with the pixel (column, row) of the person that
    shows it; only those that are seen."""
    height, width = garment_mask.shape
    rows, columns = np.nonzero(garment_mask > 0.5)
    if not len(rows):
        return []
    xs = np.linspace(columns.min(), columns.max(), DOTS[1] * 2 + 1)[1::2] / width
    ys = np.linspace(rows.min(), rows.max(), DOTS[0] * 2 + 1)[1::2] / height
    matches = []
    for point in np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2).astype(np.float32):
        column, row = (point * (width, height)).astype(int)
        distances = np.linalg.norm(coordinates - point, axis=-1)
        distances[confidence <= SHOWN] = np.inf
        nearest = np.unravel_index(distances.argmin(), distances.shape)
        if garment_mask[row, column] > 0.5 and distances[nearest] < FARTHEST:
            matches.append((point, (int(nearest[1]), int(nearest[0]))))
    return matches


def draw_heat_map(tryon: Tensor, heat: Tensor) -> Tensor:
    """IMAGE under a heat B x H x W in 0..1, from blue to red where it is not 0."""
    levels = (heat.clamp(0, 1) * 255).round().byte().numpy()
    colours = [cv2.applyColorMap(item, cv2.COLORMAP_TURBO)[..., ::-1] for item in levels]
    alpha = COLOUR_SHARE * heat.clamp(0, 1).sqrt()[..., None]
    return tryon * (1 - alpha) + to_images(colours) * alpha
