"""The training losses: the error of the predicted noise, the attention total variation (paper,
sections 3.2 and 3.3) and the correspondence loss. A new term is added to `compute_loss`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..dataset.pairs import Pair
from ..errors import StableVITONError
from ..images import MULTIPLE
from ..inference.encoding import Latents, concat_network_input
from ..model.attention_recorder import token_grid
from ..model.config import NetworkConfig
from ..schedule import TIMESTEPS, add_noise, alphas_cumprod, read_schedule
from .config import TrainConfig

ATV_TOKENS = (700, 3000)  # garment tokens of a block with attention total variation loss


@dataclass(frozen=True)
class TimestepsAndNoise:
    """Random numbers of a batch. timesteps: B, 0..999. noise: B x 4 x h x w. drop_mask: B bool,
    items whose conditioning is dropped."""

    timesteps: Tensor
    noise: Tensor
    drop_mask: Tensor

    def __getitem__(self, items: slice) -> "TimestepsAndNoise":
        return TimestepsAndNoise(self.timesteps[items], self.noise[items], self.drop_mask[items])

    def to(self, device: torch.device) -> "TimestepsAndNoise":
        return TimestepsAndNoise(
            self.timesteps.to(device), self.noise.to(device), self.drop_mask.to(device)
        )


def sample_timesteps_and_noise(
    seed: int,
    step: int,
    shape: Sequence[int],
    cond_drop_prob: float,
    cond_drop_per: Literal["sample", "batch"] = "sample",
) -> TimestepsAndNoise:
    """Random numbers for the joint batch of a step, a function of seed and step alone: the same on
    every device and after resuming.

    shape: of the latents, B x 4 x h x w. cond_drop_prob: probability that an item, or with
    cond_drop_per="batch" (the released code) all items together, take the learned vector.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    timesteps = torch.randint(TIMESTEPS, (shape[0],), generator=generator)
    noise = torch.randn(tuple(shape), generator=generator)
    count = shape[0] if cond_drop_per == "sample" else 1
    drop_mask = torch.rand(count, generator=generator) < cond_drop_prob
    return TimestepsAndNoise(timesteps, noise, drop_mask.expand(shape[0]))


def make_model_inputs(batch: Latents, sampled: TimestepsAndNoise) -> dict[str, Tensor | None]:
    """Keyword arguments of `TryOnModel` for a batch with noise added at its timesteps."""
    noisy = add_noise(batch.person, sampled.noise.to(batch.person), sampled.timesteps)
    return {
        "x": concat_network_input(noisy, batch),
        "timesteps": sampled.timesteps,
        "garment": batch.garment,
        "drop_mask": sampled.drop_mask,
        "embedding": batch.embedding,
        "garment_image": batch.garment_image,
    }


def list_recorded_blocks(config: TrainConfig, network: NetworkConfig) -> list[int]:
    """The zero cross-attention blocks whose attention maps the loss needs."""
    return sorted({*config.correspondence_blocks, *list_atv_blocks(config, network)})


def list_atv_blocks(config: TrainConfig, network: NetworkConfig) -> tuple[int, ...]:
    """The zero cross-attention blocks with the attention total variation loss."""
    if config.phase != "atv":
        return ()
    if config.atv_blocks is not None:
        return config.atv_blocks
    return choose_atv_blocks(network, config.height // MULTIPLE, config.width // MULTIPLE)


def choose_atv_blocks(network: NetworkConfig, height: int, width: int) -> tuple[int, ...]:
    """The blocks that the released training chooses for latents of height x width: the middle one
    of a level where that has ATV_TOKENS garment tokens, 4 of 0..8 at 512 x 384 and 1 at 1024 x 768.
    Where no level of a small network or image has, the middle one of the nearest level."""
    per_level = network.num_res_blocks + 1
    count = len(network.cross_attention_channels)
    tokens = {
        block: math.prod(token_grid(network, block, height, width))
        for block in range((per_level - 1) // 2, count, per_level)
    }
    low, high = ATV_TOKENS
    chosen = tuple(block for block, number in tokens.items() if low <= number <= high)
    middle = math.sqrt(low * high)
    return chosen or (min(tokens, key=lambda block: abs(math.log(tokens[block] / middle))),)


def require_annotations(config: TrainConfig, pairs: Sequence[Pair]) -> None:
    """StableVITONError where pairs lack the optional images that the loss needs."""
    required = []
    if config.correspondence_blocks:
        required.append(("correspondence_blocks", "garment_coordinates", "gt_cloth_coordinates"))
    if config.phase == "atv":
        required.append(("phase atv", "warped_mask", "gt_cloth_warped_mask"))
    for setting, field, folder in required:
        missing = [pair.name for pair in pairs if getattr(pair, field) is None]
        if missing:
            raise StableVITONError(
                f"{setting} needs an image of every training pair in the folder {folder}; "
                f"{len(missing)} have none, such as {missing[0]}."
            )


def compute_loss(
    config: TrainConfig,
    network: NetworkConfig,
    noise_prediction: Tensor,
    batch: Latents,
    sampled: TimestepsAndNoise,
    attention_maps: Mapping[int, Tensor],
) -> dict[str, Tensor]:
    """The weighted terms of the loss by name, scalars; the loss is their sum.

    noise_prediction: B x 4 x h x w. attention_maps: B x N x N of each block of
    `list_recorded_blocks`.
    """
    height, width = batch.person.shape[2:]

    def grid(block: int) -> tuple[int, int]:
        return token_grid(network, block, height, width)

    terms = {"noise": noise_loss(noise_prediction, sampled, config.loss_weighting)}
    if blocks := config.correspondence_blocks:
        coordinates = batch.garment_coordinates
        assert coordinates is not None
        errors = [correspondence_loss(attention_maps[b], grid(b), coordinates) for b in blocks]
        terms["correspondence"] = config.correspondence_weight * torch.stack(errors).sum()
    if blocks := list_atv_blocks(config, network):
        mask = batch.warped_mask
        assert mask is not None
        variations = [attention_total_variation(attention_maps[b], grid(b), mask) for b in blocks]
        terms["atv"] = config.atv_weight * torch.stack(variations).sum()
    return terms


def noise_loss(
    noise_prediction: Tensor, sampled: TimestepsAndNoise, weighting: Literal["none", "snr"] = "none"
) -> Tensor:
    """MSE between predicted and true noise (Ho et al., 2020).

    weighting: "snr" divides the error of each item by alphas_cumprod at its timestep, which makes
    it the MSE of v-prediction (Salimans and Ho, 2022, section 4). High noise levels, where the
    garment's colour is decided, then weigh far more.
    """
    errors = (noise_prediction.float() - sampled.noise).square().mean(dim=(1, 2, 3))
    if weighting == "snr":
        errors = errors / read_schedule(alphas_cumprod(), sampled.timesteps, errors)
    return errors.mean()


def expected_coordinates(attention: Tensor, grid: tuple[int, int]) -> Tensor:
    """The mean garment coordinate that each person token attends to: attention map B x N x N ->
    B x rows x columns x 2, (row, column) in tokens."""
    rows, columns = grid
    y, x = (torch.arange(count, device=attention.device) for count in grid)
    y, x = torch.meshgrid(y, x, indexing="ij")
    coordinates = rearrange(torch.stack([y, x]), "c h w -> (h w) c").to(attention)
    with torch.autocast(attention.device.type, enabled=False):
        return rearrange(attention @ coordinates, "b (h w) c -> b h w c", h=rows)


def attention_total_variation(
    attention: Tensor, grid: tuple[int, int], warped_mask: Tensor
) -> Tensor:
    """Total variation of the garment coordinates that person tokens attend to (paper, section 3.3).

    attention: B x N x N softmax map over the tokens of a grid. warped_mask: B x H x W, 1 = the
    garment on the person, of any size. L1 distance (both coordinates added) between the expected
    coordinates of neighbouring tokens that both show the garment; the mean over such neighbours in
    the batch, down plus across. 0 where there are none (the released code divides by zero there).
    """
    coordinates = expected_coordinates(attention, grid)
    mask = F.interpolate(warped_mask[:, None].float(), size=grid, mode="nearest")[:, 0]
    total = coordinates.new_zeros(())
    for axis in (1, 2):
        length = coordinates.shape[axis] - 1
        difference = coordinates.narrow(axis, 1, length) - coordinates.narrow(axis, 0, length)
        both = mask.narrow(axis, 1, length) * mask.narrow(axis, 0, length)
        total = total + (difference.abs() * both[..., None]).sum() / both.sum().clamp(min=1)
    return total


def correspondence_loss(
    attention: Tensor, grid: tuple[int, int], garment_coordinates: Tensor
) -> Tensor:
    """Cross entropy between where person tokens attend and the true garment coordinates. Not in the
    paper: it teaches the attention of a small network from few pairs.

    attention: B x N x N softmax map over the tokens of a grid. garment_coordinates: B x H x W x 3
    uint8, as in `Sample`. The target is bilinear: each true coordinate is shared among the four
    tokens around it. The mean over the tokens of the batch that show the garment; 0 where there are
    none.
    """
    rows, columns = grid
    coordinates, visible = true_coordinates(garment_coordinates, grid)
    row, column = rearrange(coordinates.to(attention), "b h w c -> c b (h w)")
    row_weights, column_weights = _interpolate(row, rows), _interpolate(column, columns)
    target = torch.einsum("bnh,bnw->bnhw", row_weights, column_weights)
    target = rearrange(target, "b n h w -> b n (h w)")
    errors = -(target * (attention + 1e-6).log()).sum(dim=-1)
    return (errors * rearrange(visible, "b h w -> b (h w)")).sum() / visible.sum().clamp(min=1)


def true_coordinates(garment_coordinates: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The garment coordinate that each person token shows: B x H x W x 3 uint8 ->
    B x rows x columns x 2, (row, column) in tokens; and whether it shows the garment,
    B x rows x columns bool."""
    image = rearrange(garment_coordinates, "b h w c -> b c h w").float()
    column, row, known = F.interpolate(image, size=grid, mode="nearest-exact").unbind(1)
    coordinates = [
        (value / 255 * count - 0.5).clamp(0, count - 1)
        for value, count in zip((row, column), grid, strict=True)
    ]
    return torch.stack(coordinates, dim=-1), known > 0


def _interpolate(positions: Tensor, count: int) -> Tensor:
    """Linear interpolation weights: positions B x N among 0..count - 1 -> B x N x count."""
    tokens = torch.arange(count, device=positions.device)
    return (1 - (positions[..., None] - tokens).abs()).clamp(min=0)
