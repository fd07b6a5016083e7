"""Foreground by colours and edges, from seeds (GrabCut: Rother et al., 2004). Masks are H x W
bool; seeds H x W uint8 in OpenCV's GC_ classes."""

import cv2
import numpy as np

RANDOM_SEEDS = (0, 1, 2)
ROUNDS = 2


def cut_foreground(image: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """What GrabCut takes as foreground of an image H x W x 3 uint8 in most of several runs, which
    cluster the colours from different random starts. The seeds' foreground where they name no
    background or no foreground."""
    foreground = (seeds == cv2.GC_FGD) | (seeds == cv2.GC_PR_FGD)
    if foreground.all() or not foreground.any():
        return foreground
    votes = np.zeros(seeds.shape, int)
    for seed in RANDOM_SEEDS:
        cv2.setRNGSeed(seed)
        labels, models = seeds.copy(), (np.zeros((1, 65)), np.zeros((1, 65)))
        pixels = np.ascontiguousarray(image)
        cv2.grabCut(pixels, labels, None, *models, ROUNDS, cv2.GC_INIT_WITH_MASK)
        votes += (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    return votes * 2 > len(RANDOM_SEEDS)


def connect(mask: np.ndarray, core: np.ndarray) -> np.ndarray:
    """The connected parts of a mask that a core touches."""
    _, parts = cv2.connectedComponents(mask.astype(np.uint8))
    touched = np.unique(parts[core & mask])
    return np.isin(parts, touched[touched > 0])
