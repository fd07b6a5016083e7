"""The correspondence of finished try-ons, from one more pass of the network over them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..dataset.samples import Sample
from ..inference.encoding import Latents
from ..inference.sampling import make_noise_predictor
from ..model.tryon_model import TryOnModel
from ..person.densepose import decode_parts
from ..schedule import add_noise
from .attention_reader import TIMESTEP, draw_common_noise, read_attention
from .attention_summary import AttentionSummary
from .field import CorrespondenceField
from .fit_field import fit_field
from .visibility import limit_to_visible


def fit_sample(
    summaries: Sequence[AttentionSummary],
    item: int,
    sample: Sample,
    result: np.ndarray,
    garment_mask: np.ndarray,
) -> CorrespondenceField:
    """The field of the try-on of a sample, an item of a batch. result: H x W x 3 uint8.
    garment_mask: as `fit_field`'s."""
    mask = sample.mask.astype(np.float32) / 255
    field = fit_field(summaries, item, mask, decode_parts(sample.densepose), garment_mask)
    return limit_to_visible(field, result, mask)


@torch.no_grad()
def read_result_attention(
    model: TryOnModel, batch: Latents, results: Tensor
) -> list[AttentionSummary]:
    """The attention of every block in a pass over results with noise added. batch: as
    `encode_samples` makes it. results: scaled latents of the try-ons, B x 4 x h x w."""
    noise = draw_common_noise(results).to(results)
    timesteps = torch.full((len(results),), TIMESTEP, device=results.device)
    noisy = add_noise(results, noise, timesteps)
    zero_cross_attention = model.network.zero_cross_attention
    with read_attention(zero_cross_attention, (results.shape[2], results.shape[3])) as summaries:
        make_noise_predictor(model, batch)(noisy, TIMESTEP)
    return summaries
