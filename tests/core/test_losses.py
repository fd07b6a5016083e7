"""The training losses against the authors' value and cases computed by hand."""

import math
from dataclasses import replace

import pytest
import torch

from helpers.golden import REDUCED, error, fill, golden_network, read_golden
from helpers.training import TINY
from stableviton_core.inference.encoding import Latents
from stableviton_core.model.attention_recorder import AttentionRecorder, token_grid
from stableviton_core.model.config import NetworkConfig
from stableviton_core.model.tryon_model import TryOnModel
from stableviton_core.schedule import add_noise, alphas_cumprod
from stableviton_core.training.config import TrainConfig
from stableviton_core.training.losses import (
    TimestepsAndNoise,
    attention_total_variation,
    choose_atv_blocks,
    compute_loss,
    correspondence_loss,
    list_recorded_blocks,
    noise_loss,
    sample_timesteps_and_noise,
)

SHAPE = (4, 4, 8, 6)


@torch.no_grad()
def test_the_attention_total_variation_is_the_authors():
    network = golden_network(REDUCED)
    x, hint = fill("input/atv/x", (2, 13, 64, 48)), fill("input/atv/hint", (2, 4, 64, 48))
    warped_mask = torch.zeros(2, 512, 384)
    warped_mask[0, 128:400, 96:288] = 1
    warped_mask[1, 64:300, 40:200] = 1
    recorder = AttentionRecorder(network.zero_cross_attention, [4])
    eps = network(x, torch.tensor([500, 20]), fill("input/atv/context", (2, 1, 96)), hint)
    grid = token_grid(REDUCED, 4, 64, 48)
    assert grid == (32, 24) and recorder.maps[4].shape == (2, 768, 768)
    golden = read_golden("reduced")
    assert error(eps, golden["atv/eps"]) <= 1e-4
    loss = 0.001 * attention_total_variation(recorder.maps[4], grid, warped_mask)
    assert loss.item() == pytest.approx(golden["atv/loss"].item(), rel=1e-4)


def permutation(targets: list[int], tokens: int) -> torch.Tensor:
    """An attention map in which person token i attends to garment token targets[i]."""
    return torch.nn.functional.one_hot(torch.tensor(targets), tokens)[None].float()


def test_total_variation_by_hand():
    grid = (2, 3)
    warped_mask = torch.ones(1, 2, 3)
    same = permutation(list(range(6)), 6)
    # each person token attends to its own position: neighbours differ by 1 in one coordinate
    assert attention_total_variation(same, grid, warped_mask).item() == pytest.approx(2)
    constant = permutation([4] * 6, 6)
    assert attention_total_variation(constant, grid, warped_mask).item() == 0
    # the last token attends to the first position: one row up and two columns to the left
    jump = permutation([0, 1, 2, 3, 4, 0], 6)
    down = (1 + 1 + 2) / 3  # |dy| + |dx| of the three columns; the last goes (0,2) -> (0,0)
    across = (1 + 1 + 1 + (1 + 1)) / 4
    expected = pytest.approx(down + across)
    assert attention_total_variation(jump, grid, warped_mask).item() == expected
    # without the last token nothing of that remains
    warped_mask[0, 1, 2] = 0
    assert attention_total_variation(jump, grid, warped_mask).item() == pytest.approx(2)


def test_an_empty_mask_has_no_variation_and_no_gradient():
    attention = torch.rand(2, 6, 6, requires_grad=True)
    loss = attention_total_variation(attention.softmax(-1), (2, 3), torch.zeros(2, 16, 24))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(attention.grad, torch.zeros_like(attention))


def make_garment_coordinates(
    tokens: list[tuple[float, float]], grid: tuple[int, int]
) -> torch.Tensor:
    """An image of 4 x 4 pixels per token, each token with a coordinate (column, row) in tokens."""
    rows, columns = grid
    values = torch.tensor([(255 * x / columns, 255 * y / rows, 255) for x, y in tokens])
    image = values.round().to(torch.uint8).reshape(rows, columns, 3)
    return image.repeat_interleave(4, 0).repeat_interleave(4, 1)[None]


def test_correspondence_by_hand():
    grid = (3, 5)
    middles = [(x + 0.5, y + 0.5) for y in range(3) for x in range(5)]
    garment_coordinates = make_garment_coordinates(middles, grid)
    right = permutation(list(range(15)), 15)
    # a hundredth of a token, to which 8 bits are rounded, costs a hundredth of -log(1e-6)
    assert correspondence_loss(right, grid, garment_coordinates).item() == pytest.approx(0, abs=0.2)
    uniform = torch.full((1, 15, 15), 1 / 15)
    assert correspondence_loss(uniform, grid, garment_coordinates).item() == pytest.approx(
        math.log(15), rel=1e-3
    )
    # half of the tokens attend to the next one: -log(1e-6) there
    half = permutation([(i + 1) % 15 if i % 2 else i for i in range(15)], 15)
    expected = 7 / 15 * -math.log(1e-6)
    assert correspondence_loss(half, grid, garment_coordinates).item() == pytest.approx(
        expected, rel=0.05
    )
    # a coordinate between four tokens is shared among them
    between = permutation([0] * 15, 15) / 2
    between[..., 6] = 0.5
    corner = make_garment_coordinates([(1.0, 1.0)] * 15, grid)  # of tokens 0, 1, 5 and 6
    expected = (math.log(2) - math.log(1e-6)) / 2
    assert correspondence_loss(between, grid, corner).item() == pytest.approx(expected, rel=0.02)


def test_tokens_without_the_garment_have_no_correspondence_loss():
    grid = (3, 5)
    garment_coordinates = make_garment_coordinates([(2.5, 1.5)] * 15, grid)
    garment_coordinates[:, 4:] = 0  # all rows of tokens but the first
    attention = torch.rand(1, 15, 15, requires_grad=True)
    correspondence_loss(attention.softmax(-1), grid, garment_coordinates).backward()
    assert attention.grad[0, :5].abs().sum() > 0 and not attention.grad[0, 5:].any()
    assert (
        correspondence_loss(
            attention.softmax(-1), grid, torch.zeros_like(garment_coordinates)
        ).item()
        == 0
    )


@pytest.mark.parametrize("size", [(8, 6), (6, 8), (9, 7), (5, 5)])
def test_every_block_and_aspect_has_its_grid(size):
    model = TryOnModel(TINY).eval()
    blocks = range(len(model.network.zero_cross_attention.warp_flow_blks))
    recorder = AttentionRecorder(model.network.zero_cross_attention, blocks)
    x, garment = torch.randn(1, 13, *size), torch.randn(1, 4, *size)
    context = model.image_projector.learnable_vector
    model.network(x, torch.tensor([3]), context, garment)
    assert set(recorder.maps) == set(blocks)
    for block, attention in recorder.maps.items():
        rows, columns = token_grid(TINY.network, block, *size)
        assert attention.shape == (1, rows * columns, rows * columns)
        assert torch.allclose(attention.sum(-1), torch.ones(1, rows * columns))


def test_the_noise_loss_is_the_mean_squared_error():
    sampled = TimestepsAndNoise(
        torch.tensor([0, 300, 600, 999]), torch.zeros(SHAPE), torch.zeros(4).bool()
    )
    assert noise_loss(torch.zeros(SHAPE), sampled).item() == 0
    assert noise_loss(torch.full(SHAPE, 2.0), sampled).item() == pytest.approx(4)
    expected = (1 / alphas_cumprod()[sampled.timesteps]).mean().item()
    loss = noise_loss(torch.ones(SHAPE), sampled, "snr")
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_the_noise_level(dtype):
    noise = torch.ones(1000, 1, 1, 1, dtype=dtype)
    noisy = add_noise(torch.zeros_like(noise), noise, torch.arange(1000)).flatten()
    expected = (1 - alphas_cumprod()).sqrt()
    assert ((noisy.double() - expected) / expected).abs().max() < 0.005


def test_timesteps_and_noise_follow_from_seed_and_step():
    shape = (4000, 1, 1, 1)
    one, again, other = (sample_timesteps_and_noise(0, step, shape, 0.2) for step in (7, 7, 8))
    assert all(torch.equal(getattr(one, n), getattr(again, n)) for n in vars(one))
    assert not torch.equal(one.noise, other.noise)
    assert abs(one.timesteps.float().mean() - 499.5) < 20
    assert one.timesteps.min() < 10 and one.timesteps.max() > 990
    assert abs(one.drop_mask.float().mean() - 0.2) < 0.03
    batches = [
        sample_timesteps_and_noise(0, step, (8, 1, 1, 1), 0.2, "batch").drop_mask
        for step in range(500)
    ]
    assert all(b.all() or not b.any() for b in batches)
    assert abs(torch.stack(batches).float().mean() - 0.2) < 0.06


def test_a_dropped_item_has_the_learned_vector():
    model = TryOnModel(TINY).eval()
    x, garment = torch.randn(1, 13, 8, 6).expand(2, -1, -1, -1), torch.randn(2, 4, 8, 6)
    images = torch.randint(0, 256, (2, 64, 48, 3), dtype=torch.uint8)
    timesteps, drop_mask = torch.tensor([3, 3]), torch.tensor([True, False])
    eps = model(x, timesteps, garment, drop_mask, garment_image=images)
    vector = model.image_projector.learnable_vector
    assert torch.allclose(
        eps[:1], model.network(x[:1], timesteps[:1], vector, garment[:1]), atol=1e-5
    )
    embedding = model.embed_garment(images.movedim(-1, 1) / 127.5 - 1)
    same = model(x, timesteps, garment, drop_mask, embedding=embedding)
    assert torch.allclose(same, eps, atol=1e-5)
    assert not torch.allclose(eps[1:], model.network(x[1:], timesteps[1:], vector, garment[1:]))


@pytest.mark.parametrize(
    ("network", "height", "width", "blocks"),
    [
        (NetworkConfig(), 512, 384, (4,)),  # 32 x 24 tokens
        (NetworkConfig(), 1024, 768, (1,)),
        (NetworkConfig(), 256, 192, (7,)),  # 32 x 24 as well
        (NetworkConfig(), 128, 96, (7,)),  # 16 x 12, the nearest
        (TINY.network, 64, 48, (0,)),
    ],
)
def test_attention_total_variation_is_of_the_released_blocks(network, height, width, blocks):
    assert choose_atv_blocks(network, height // 8, width // 8) == blocks
    config = TrainConfig("data", "init", "output", phase="atv", height=height, width=width)
    assert list_recorded_blocks(config, network) == list(blocks)
    assert list_recorded_blocks(replace(config, atv_blocks=(2,)), network) == [2]


def test_the_loss_is_the_weighted_sum_of_its_terms():
    config = TrainConfig(
        "data",
        "init",
        "output",
        phase="atv",
        atv_blocks=(1,),
        atv_weight=0.5,
        correspondence_blocks=(0, 1),
        correspondence_weight=0.25,
    )
    assert list_recorded_blocks(config, REDUCED) == [0, 1]
    base = replace(config, phase="base", correspondence_blocks=())
    assert list_recorded_blocks(base, REDUCED) == []
    sampled = sample_timesteps_and_noise(0, 0, SHAPE, 0.2)
    latents = torch.zeros(SHAPE)
    warped_mask = torch.ones(4, 16, 12)
    coordinates = torch.full((4, 16, 12, 3), 255, dtype=torch.uint8)
    batch = Latents(*[latents] * 4, torch.ones(4, 1, 8, 6), None, None, warped_mask, coordinates)
    maps = {block: torch.rand(4, 48, 48).softmax(-1) for block in (0, 1)}
    prediction = torch.ones(SHAPE)
    terms = compute_loss(config, TINY.network, prediction, batch, sampled, maps)
    assert set(terms) == {"noise", "atv", "correspondence"}
    assert terms["noise"] == noise_loss(prediction, sampled)
    assert terms["atv"] == 0.5 * attention_total_variation(maps[1], (8, 6), warped_mask)
    errors = [correspondence_loss(maps[block], (8, 6), coordinates) for block in (0, 1)]
    assert terms["correspondence"].item() == pytest.approx(0.25 * sum(errors).item())
