"""Fits a smooth field to what tokens attend to: one robust polynomial for the whole garment, and
from it one for each rigid part of the body.

Robust: iteratively reweighted least squares with the weights of Geman and McClure (1987), whose
scale shrinks from iteration to iteration (graduated non-convexity, Blake and Zisserman, 1987), so
that tokens that show skin, or attend elsewhere, lose their weight.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from einops import rearrange

from ..errors import StableVITONError
from ..images import MULTIPLE
from .attention_summary import AttentionSummary, locate_tokens
from .body_parts import measure_part_distances
from .field import CorrespondenceField

WHOLE_DEGREE, PART_DEGREE = 3, 2  # of the polynomials
SCALES = (0.3, 0.3, 0.2, 0.2, 0.1, 0.1, 0.07, 0.05, 0.04, 0.03, 0.02, 0.02)  # of the image's side
STIFFNESS = 1.0  # of a part towards the whole: the weight of so many tokens
CYCLE = 3.0  # tokens: an error of so many on the way to the garment and back halves a weight
AGREEMENT = 0.04  # of the image's side: a token that is so far from the field counts a quarter
SEAM = 0.01  # of the image's height, over which the field passes from one part to the next
FEWEST_TOKENS = 24  # a mask has to cover
FEWEST_PART_TOKENS = 6  # a part has to have for a fit of its own


@dataclass(frozen=True, eq=False)
class Matches:
    """What n tokens attend to. person, garment: points (x, y) in 0..1, n x 2. peak: attention at
    that point, n. consistency: n, 1 where that point is attended to by this token most."""

    person: np.ndarray
    garment: np.ndarray
    peak: np.ndarray
    consistency: np.ndarray

    @property
    def weight(self) -> np.ndarray:
        return self.peak * self.consistency

    def __len__(self) -> int:
        return len(self.person)

    def __getitem__(self, items: np.ndarray) -> "Matches":
        return Matches(*(value[items] for value in self._values()))

    def _values(self) -> tuple[np.ndarray, ...]:
        return self.person, self.garment, self.peak, self.consistency

    @staticmethod
    def concatenate(several: Sequence["Matches"]) -> "Matches":
        values = zip(*(matches._values() for matches in several), strict=True)
        return Matches(*(np.concatenate(value) for value in values))


def fit_field(
    summaries: Sequence[AttentionSummary],
    item: int,
    mask: np.ndarray,
    parts: np.ndarray | None,
    garment_mask: np.ndarray,
) -> CorrespondenceField:
    """The field of an item of a batch.

    summaries: of one pass or more, of the blocks to use. mask: agnostic mask H x W in 0..1; it sets
    the field's size. parts: DensePose indices H x W; None: the garment is fitted as a whole.
    garment_mask: H x W, 1 = garment. StableVITONError where the mask covers too few tokens.
    """
    matches = _collect_matches(summaries, item, mask)
    coordinates, confidence = _fit_person(matches, mask, parts)
    values = (coordinates, confidence, garment_mask)
    return CorrespondenceField(*(torch.from_numpy(np.float32(value))[None] for value in values))


def _collect_matches(summaries: Sequence[AttentionSummary], item: int, mask: np.ndarray) -> Matches:
    """What the tokens inside the mask of an item of a batch attend to, of all summaries."""
    collected = []
    for summary in summaries:
        rows, columns = summary.grid
        person = locate_tokens(summary.grid).numpy()
        garment, back, peak = (
            values[item].cpu().numpy() for values in (summary.garment, summary.person, summary.peak)
        )
        column, row = (garment * (columns, rows)).astype(int).clip(0, (columns - 1, rows - 1)).T
        error = np.linalg.norm((back[row * columns + column] - person) * (columns, rows), axis=1)
        consistency = 0.5 ** ((error / CYCLE) ** 2)
        inside = cv2.resize(mask, (columns, rows), interpolation=cv2.INTER_AREA).ravel() > 0.5
        collected.append(Matches(person, garment, peak, consistency)[inside])
    matches = Matches.concatenate(collected)
    if len(matches) < FEWEST_TOKENS:
        raise StableVITONError(
            f"the mask covers {len(matches)} of the network's tokens, too few to fit a "
            f"correspondence ({FEWEST_TOKENS}). Connect the agnostic mask of the try-on."
        )
    return matches


def _fit_person(
    matches: Matches, mask: np.ndarray, parts: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates H x W x 2 and confidence H x W."""
    height, width = mask.shape
    terms = _expand(matches.person, WHOLE_DEGREE)
    whole = _fit_robustly(terms, matches.garment, matches.weight)
    pixels = locate_tokens(mask.shape).numpy()
    coordinates = _expand(pixels, WHOLE_DEGREE) @ whole
    fitted = terms @ whole
    if parts is not None:
        distances = measure_part_distances(parts, mask > 0.5) / height
        shares = np.exp(-(distances - distances.min(axis=0)) / SEAM)
        shares = rearrange(np.where(shares < 1e-3, 0, shares), "p h w -> p (h w)")
        column, row = (matches.person * (width, height)).astype(int).T
        nearest = distances[:, row, column].argmin(axis=0)
        blended = np.zeros_like(coordinates)
        for part, share in enumerate(shares):
            members, near = nearest == part, share > 0
            locate = _fit_part(matches[members], fitted[members])
            if locate is None:
                blended[near] += share[near, None] * coordinates[near]
            else:
                blended[near] += share[near, None] * locate(pixels[near])
                fitted[members] = locate(matches.person[members])
        coordinates = blended / shares.sum(axis=0)[:, None]
    residuals = np.linalg.norm(matches.garment - fitted, axis=1)
    confidence = _measure_confidence(matches, residuals, mask)
    return rearrange(coordinates, "(h w) c -> h w c", h=height), confidence


def _fit_part(matches: Matches, whole: np.ndarray) -> Callable[[np.ndarray], np.ndarray] | None:
    """The garment coordinates of a part as a function of points n x 2; None where it has too few
    tokens. whole: what the fit of the whole says for the part's tokens, n x 2, from which it
    starts."""
    if len(matches) < FEWEST_PART_TOKENS:
        return None
    centre = matches.person.mean(axis=0)

    def expand(points: np.ndarray) -> np.ndarray:
        return _expand(points - centre + 0.5, PART_DEGREE)

    terms = expand(matches.person)
    start, *_ = np.linalg.lstsq(terms, whole, rcond=None)
    change = _fit_robustly(terms, matches.garment - terms @ start, matches.weight, STIFFNESS)
    return lambda points: expand(points) @ (start + change)


def _expand(points: np.ndarray, degree: int) -> np.ndarray:
    """The monomials of points n x 2 in 0..1 up to a degree, n x terms."""
    x, y = (2 * points - 1).T
    powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
    return np.stack([x**i * y**j for i, j in powers], axis=1)


def _fit_robustly(
    terms: np.ndarray, values: np.ndarray, weight: np.ndarray, stiffness: float = 1e-3
) -> np.ndarray:
    """Coefficients, terms x 2, of values n x 2. stiffness: pulls what they describe to zero, with
    the weight of so many tokens."""
    ridge = stiffness / len(terms) * terms.T @ terms + 1e-9 * np.eye(terms.shape[1])
    squares = np.zeros(len(values))
    for scale in SCALES:
        robust = weight * (scale**2 / (scale**2 + squares)) ** 2
        weighted = terms * robust[:, None]
        coefficients = np.linalg.solve(weighted.T @ terms + ridge, weighted.T @ values)
        squares = np.square(terms @ coefficients - values).sum(axis=1)
    return coefficients


def _measure_confidence(matches: Matches, residuals: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The share of the attention around a pixel that agrees with the field, H x W in 0..1."""
    height, width = mask.shape
    agreement = matches.consistency / (1 + (residuals / AGREEMENT) ** 2) ** 2
    rows, columns = height // MULTIPLE, width // MULTIPLE
    column, row = (matches.person * (columns, rows)).astype(int).T
    total, agreeing = np.zeros((2, rows, columns), np.float32)
    np.add.at(total, (row, column), matches.peak)
    np.add.at(agreeing, (row, column), matches.peak * agreement)
    total, agreeing = (cv2.GaussianBlur(x, (0, 0), 1) for x in (total, agreeing))
    share = agreeing / np.maximum(total, 1e-6)
    return cv2.resize(share, (width, height)).clip(0, 1) * (mask > 0)
