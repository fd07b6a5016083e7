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


def find_correspondence(
    model: TryOnModel, batch: Latents, samples: Sequence[Sample], results: Tensor
) -> CorrespondenceField:
    """The field of try-ons. batch: of the samples, as `encode_samples` makes it. results: scaled
    latents of the try-ons, B x 4 x h x w."""
    summaries = read_result_attention(model, batch, results)
    masks = np.stack([sample.mask for sample in samples]).astype(np.float32) / 255
    return fit_field(summaries, masks, [decode_parts(sample.densepose) for sample in samples])


@torch.no_grad()
def read_result_attention(
    model: TryOnModel, batch: Latents, results: Tensor, timestep: int = TIMESTEP
) -> list[AttentionSummary]:
    """The attention of every block in a pass over results with noise added. timestep: 0..999, the
    level of the noise."""
    noise = draw_common_noise(results).to(results)
    noisy = add_noise(results, noise, torch.full((len(results),), timestep))
    zero_cross_attention = model.network.zero_cross_attention
    with read_attention(zero_cross_attention, (results.shape[2], results.shape[3])) as summaries:
        make_noise_predictor(model, batch)(noisy, timestep)
    return summaries
