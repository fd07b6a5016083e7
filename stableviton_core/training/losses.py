"""What is minimised: the error of the predicted noise, and the attention total variation (paper,
sections 3.2 and 3.3); and, where the data knows it, the error of where the attention looks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import StableVITONError
from ..model.config import NetworkConfig
from ..model.zero_cross_attention import ZeroCrossAttention
from ..schedule import TIMESTEPS, add_noise, alphas_cumprod
from .latents import Latents


@dataclass(frozen=True)
class Draw:
    """The chance in a batch: timesteps B, noise B x 4 x h x w, dropped B bool."""

    timesteps: Tensor
    noise: Tensor
    dropped: Tensor

    def __getitem__(self, chosen: slice) -> "Draw":
        return Draw(self.timesteps[chosen], self.noise[chosen], self.dropped[chosen])

    def to(self, device: torch.device) -> "Draw":
        return Draw(self.timesteps.to(device), self.noise.to(device), self.dropped.to(device))


def draw(
    seed: int, step: int, shape: Sequence[int], unconditional: float, once_a_batch: bool = False
) -> Draw:
    """The chance of a step's joint batch: the same on every machine, and after every resumption.

    shape: of the latents, B x 4 x h x w. unconditional: the probability of the learned vector, for
    each item, or once_a_batch for all of them as the released code has it.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    timesteps = torch.randint(TIMESTEPS, (shape[0],), generator=generator)
    noise = torch.randn(tuple(shape), generator=generator)
    lots = torch.rand(1 if once_a_batch else shape[0], generator=generator)
    return Draw(timesteps, noise, (lots < unconditional).expand(shape[0]))


def network_input(noisy: Tensor, batch: Latents) -> Tensor:
    """Noisy latent, agnostic latent, keep-mask, DensePose latent -> B x 13 x h x w."""
    return torch.cat([noisy, batch.agnostic, batch.keep, batch.densepose], dim=1)


def model_inputs(batch: Latents, drawn: Draw) -> dict[str, Tensor | None]:
    """The arguments of `TryOnModel` for a batch at its drawn noise."""
    noisy = add_noise(batch.person, drawn.noise.to(batch.person), drawn.timesteps)
    return {
        "x": network_input(noisy, batch),
        "timesteps": drawn.timesteps,
        "garment": batch.garment,
        "dropped": drawn.dropped,
        "embedding": batch.embedding,
        "garment_image": batch.garment_image,
    }


def noise_loss(eps: Tensor, drawn: Draw, velocity: bool = False) -> Tensor:
    """MSE between predicted and true noise (Stable Diffusion's objective).

    velocity: each item over its abar, which makes it the MSE of the velocity (Salimans and Ho,
    2022, section 4). At high noise, where a small error of the noise is a large one of the picture
    and the garment's colour is decided, it counts for far more.
    """
    errors = (eps.float() - drawn.noise).square().mean(dim=(1, 2, 3))
    if velocity:
        errors = errors / alphas_cumprod()[drawn.timesteps.cpu()].to(errors)
    return errors.mean()


def record_attention(
    zero_cross_attention: ZeroCrossAttention, blocks: Sequence[int]
) -> dict[int, Tensor]:
    """From now on, the softmax maps of these zero cross-attention blocks, B x person tokens x
    garment tokens, averaged over the heads, come into the returned dictionary at every forward
    pass. The other blocks go on without maps. StableVITONError where there is no such block."""
    count = len(zero_cross_attention.warp_flow_blks)
    if any(block not in range(count) for block in blocks):
        raise StableVITONError(
            f"zero cross-attention blocks are of 0..{count - 1} in this network, got {list(blocks)}"
        )
    maps: dict[int, Tensor] = {}
    for block in blocks:
        layer: Any = zero_cross_attention.warp_flow_blks[block]
        layer.transformer_blocks[0].attn2.attention = partial(_attend_and_record, maps, block)
    return maps


def _attend_and_record(
    maps: dict[int, Tensor], block: int, q: Tensor, k: Tensor, v: Tensor, heads: int
) -> Tensor:
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # B N C -> B H N D
    with torch.autocast(q.device.type, enabled=False):
        weights = (q.float() @ k.float().mT * q.shape[-1] ** -0.5).softmax(dim=-1)
    maps[block] = weights.mean(dim=1)
    return (weights.to(v) @ v).transpose(1, 2).flatten(2)  # B H N D -> B N C


def token_grid(config: NetworkConfig, block: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the tokens of a zero cross-attention block, for latents of a size."""
    output_block = config.first_cross_attention_block + block
    level = config.levels - 1 - output_block // (config.num_res_blocks + 1)
    for _ in range(level):  # a downsampling rounds up
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width


def expected_coordinates(attention: Tensor, grid: tuple[int, int]) -> Tensor:
    """Where on the garment each person token looks on average: an attention map, B x N x N, over
    tokens of a grid -> B x rows x columns x 2, each (row, column) in tokens."""
    rows, columns = grid
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    garment_coordinates = torch.stack([y, x], dim=-1).reshape(-1, 2).to(attention)
    with torch.autocast(attention.device.type, enabled=False):
        return (attention @ garment_coordinates).unflatten(1, grid)  # B N 2 -> B rows columns 2


def attention_total_variation(attention: Tensor, grid: tuple[int, int], worn: Tensor) -> Tensor:
    """Total variation of where the garment tokens lie that the person tokens look at.

    attention: B x N x N softmax map, tokens of a grid. worn: B x H x W, 1 = the worn garment, of
    any size. The expected garment coordinate (row, column) of every person token is compared with
    its neighbours', where both lie in the garment; the mean over such neighbours, down and across,
    of the whole batch, both coordinates added. 0 where there are none (the released code divides
    by zero there).
    """
    field = expected_coordinates(attention, grid)
    mask = F.interpolate(worn[:, None].float(), size=grid, mode="nearest")[:, 0]
    total = field.new_zeros(())
    for axis in (1, 2):
        length = field.shape[axis] - 1
        step = field.narrow(axis, 1, length) - field.narrow(axis, 0, length)
        both = mask.narrow(axis, 1, length) * mask.narrow(axis, 0, length)
        total = total + (step.abs() * both[..., None]).sum() / both.sum().clamp(min=1)
    return total


def correspondence_loss(
    attention: Tensor, grid: tuple[int, int], garment_coordinates: Tensor
) -> Tensor:
    """Cross entropy of where the person tokens look on the garment, against where what they show
    of it lies. Not in the paper: a small network on few pairs learns from it where to look.

    attention: B x N x N softmax map, tokens of a grid. garment_coordinates: B x H x W x 3 uint8, as in
    `data.Sample`. A place counts for the four tokens around it, by its nearness to their middles.
    The mean over the tokens that show the garment, of the whole batch; 0 where there are none.
    """
    rows, columns = grid
    truth, shown = true_coordinates(garment_coordinates, grid)
    row, column = truth.to(attention).flatten(1, 2).unbind(-1)
    near_rows, near_columns = _nearness(row, rows), _nearness(column, columns)
    target = (near_rows[..., None] * near_columns[..., None, :]).flatten(2)  # B N N
    errors = -(target * (attention + 1e-6).log()).sum(dim=-1)
    return (errors * shown.flatten(1)).sum() / shown.sum().clamp(min=1)


def true_coordinates(garment_coordinates: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Where on the garment what the person tokens show lies: B x rows x columns x 2, each (row,
    column) in tokens; and which of them show it, B x rows x columns bool."""
    picture = garment_coordinates.movedim(-1, 1).float()  # B H W C -> B C H W
    column, row, known = F.interpolate(picture, size=grid, mode="nearest-exact").unbind(1)
    positions = [
        (value / 255 * count - 0.5).clamp(0, count - 1)
        for value, count in zip((row, column), grid, strict=True)
    ]
    return torch.stack(positions, dim=-1), known > 0


def _nearness(positions: Tensor, count: int) -> Tensor:
    """To every token of a side: B x N -> B x N x count, 1 on it and 0 from the next one on."""
    middles = torch.arange(count, device=positions.device)
    return (1 - (positions[..., None] - middles).abs()).clamp(min=0)
