"""Foreground by colours and edges, from seeds (GrabCut: Rother et al., 2004). Masks are H x W
bool; seeds H x W uint8 in OpenCV's GC_ classes."""

import cv2
import numpy as np

RANDOM_SEEDS = (0, 1)
ROUNDS = 2


def cut_foreground(image: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """What GrabCut takes as foreground of an image H x W x 3 uint8 in at least half of its runs on
    the image and its mirror image, which cluster the colours from different random starts. The
    seeds' foreground where they name no background or no foreground."""
    foreground = (seeds == cv2.GC_FGD) | (seeds == cv2.GC_PR_FGD)
    if foreground.all() or not foreground.any():
        return foreground
    votes = np.zeros(seeds.shape, int)
    for random_seed in RANDOM_SEEDS:
        votes += _run(image, seeds, random_seed)
        votes += _run(image[:, ::-1], seeds[:, ::-1], random_seed)[:, ::-1]
    return votes >= len(RANDOM_SEEDS)


def _run(image: np.ndarray, seeds: np.ndarray, random_seed: int) -> np.ndarray:
    cv2.setRNGSeed(random_seed)
    pixels, labels = np.ascontiguousarray(image), np.array(seeds, order="C")
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(pixels, labels, None, *models, ROUNDS, cv2.GC_INIT_WITH_MASK)
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


def connect(mask: np.ndarray, core: np.ndarray) -> np.ndarray:
    """The connected parts of a mask that a core touches."""
    _, parts = cv2.connectedComponents(mask.astype(np.uint8))
    touched = np.unique(parts[core & mask])
    return np.isin(parts, touched[touched > 0])
