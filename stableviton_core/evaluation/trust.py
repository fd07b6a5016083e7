"""How far results can be trusted, without ground truth: the score of `correspondence.score`, with
the attention of a checkpoint."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..correspondence.garments import segment_garments
from ..correspondence.result_pass import fit_sample, read_result_attention
from ..correspondence.score import Score, score_tryons
from ..dataset.pairs import Pair, read_pairs
from ..dataset.samples import load_sample
from ..errors import StableVITONError
from ..image_tensors import to_images, to_masks
from ..inference.config import TryOnConfig
from ..inference.encoding import encode_samples
from ..inference.tryons import load_networks
from ..model.vae import encode_images
from .config import EvaluateConfig
from .protocols import PROTOCOLS, read_resized
from .results import Result

_log = logging.getLogger(__name__)


@torch.inference_mode()
def score_results(results: Sequence[Result], config: EvaluateConfig) -> list[Score]:
    """The scores of results of a data set's test split. A result that cannot be scored, such as one
    whose garment does not stand out from its background, is named in the log and left out.
    StableVITONError where that is every one."""
    assert config.score is not None and config.data is not None
    settings = TryOnConfig(config.score, Path(), device=config.device, dtype="fp32")
    networks = load_networks(settings)
    size, resample = (config.height, config.width), PROTOCOLS[config.protocol].filter
    pairs = _list_pairs(results, config.data, config.category)
    scores: list[Score] = []
    for first in tqdm(range(0, len(results), config.batch_size), desc="score"):
        group = slice(first, first + config.batch_size)
        samples = [load_sample(pair, *size) for pair in pairs[group]]
        images = [read_resized(result.file, *size, resample) for result in results[group]]
        batch = encode_samples(networks.autoencoder, networks.model, samples)
        latents = encode_images(networks.autoencoder, np.stack(images))
        summaries = read_result_attention(networks.model, batch, latents)
        for item, (sample, image) in enumerate(zip(samples, images, strict=True)):
            try:
                garment = to_images([sample.garment])
                mask = segment_garments(garment)
                field = fit_sample(summaries, item, sample, image, mask[0].numpy())
            except StableVITONError as error:
                _log.warning("%s is not scored: %s", results[first + item].file.name, error)
                continue
            change = to_masks([sample.mask > 0])
            scores += score_tryons(to_images([image]), garment, mask, field, change)
    if not scores:
        raise StableVITONError("none of the results can be scored; the log has the reasons.")
    return scores


def _list_pairs(results: Sequence[Result], data: Path, category: str | None) -> list[Pair]:
    """The pair of each result: its person's, with its garment's file."""
    paired = read_pairs(data, "test", True, category=category)
    persons = {Path(pair.person).stem: pair for pair in paired}
    unpaired = read_pairs(data, "test", False, category=category)
    garments = {Path(pair.garment).stem: pair for pair in (*unpaired, *paired)}
    pairs = []
    for result in results:
        pair = persons[result.person]
        other = pair if result.garment is None else garments[result.garment]
        pairs.append(replace(pair, garment=other.garment, cloth=other.cloth))
    return pairs
