"""How far results can be trusted, without ground truth: the score of `correspondence.score`, with
the attention of a checkpoint."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ..correspondence.garments import place_garments
from ..correspondence.result_pass import find_correspondence
from ..correspondence.score import Score, score_tryons
from ..dataset.pairs import Pair, read_pairs
from ..dataset.samples import load_sample
from ..image_tensors import to_images, to_masks
from ..inference.encoding import encode_samples
from ..model.pretrained import load_model
from ..model.vae import encode_images
from .protocols import Filter, read_resized
from .results import Result

FILTER: Filter = "bilinear"


def score_results(
    results: Sequence[Result],
    data: Path,
    category: str | None,
    checkpoint: Path,
    size: tuple[int, int],
    batch_size: int,
    device: torch.device,
) -> list[Score]:
    """The score of each result of a data set's test split. checkpoint: that made them. size: height
    and width of the passes."""
    pairs = _map_pairs(data, category)
    model, autoencoder, _ = load_model(checkpoint)
    for network in (model, autoencoder):
        nn.Module.to(network.eval().requires_grad_(False), device)
    scores = []
    for first in tqdm(range(0, len(results), batch_size), desc="score"):
        group = results[first : first + batch_size]
        samples = [load_sample(pairs[result.person, result.garment], *size) for result in group]
        images = [read_resized(result.file, *size, FILTER) for result in group]
        batch = encode_samples(autoencoder, model, samples)
        latents = encode_images(autoencoder, np.stack(images))
        field = find_correspondence(model, batch, samples, latents)
        garments = to_images([sample.garment for sample in samples])
        masks = to_masks([sample.mask > 0 for sample in samples])
        placed = place_garments(garments, None, size)
        scores += score_tryons(to_images(images), *placed, field, masks)
    return scores


def _map_pairs(data: Path, category: str | None) -> dict[tuple[str, str | None], Pair]:
    """The pairs of a test split by the stems of person and garment; None: the own garment."""
    pairs: dict[tuple[str, str | None], Pair] = {}
    for paired in (False, True):
        for pair in read_pairs(data, "test", paired, category=category):
            person, garment = Path(pair.person).stem, Path(pair.garment).stem
            pairs[person, garment] = pair
            if paired:
                pairs[person, None] = pair
    return pairs
