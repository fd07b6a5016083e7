"""One pass of the network over a finished try-on, to read what it attends to."""

import torch
from torch import Tensor

from ..inference.encoding import Latents
from ..inference.sampling import make_noise_predictor
from ..model.tryon_model import TryOnModel
from ..schedule import add_noise
from .attention_reader import read_attention
from .attention_summary import AttentionSummary

TIMESTEP = 100  # of the pass: low noise, so that the network sees the garment on the person


@torch.no_grad()
def read_result_attention(
    model: TryOnModel, batch: Latents, result: Tensor, noise: Tensor, timestep: int = TIMESTEP
) -> list[AttentionSummary]:
    """The attention of every block to the garments of a batch.

    result: scaled latents of the try-ons, B x 4 x h x w, as `sample_tryon` makes them. noise: of
    the same shape. timestep: 0..999, the level of the noise that is added.
    """
    timesteps = torch.full((len(result),), timestep, device=result.device)
    zero_cross_attention = model.network.zero_cross_attention
    with read_attention(zero_cross_attention, tuple(result.shape[2:])) as summaries:
        make_noise_predictor(model, batch)(add_noise(result, noise, timesteps), timestep)
    return summaries
