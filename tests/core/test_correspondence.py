"""The correspondence between person and garment, against fields that are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from stableviton_core.correspondence import attention_summary
from stableviton_core.correspondence.attention_reader import draw_common_noise, read_attention
from stableviton_core.correspondence.attention_summary import (
    AttentionSummary,
    locate_tokens,
    summarize_attention,
)
from stableviton_core.correspondence.carry_details import DetailOptions, carry_details
from stableviton_core.correspondence.draw_field import draw_dots, draw_side_by_side
from stableviton_core.correspondence.field import CorrespondenceField, concatenate_fields
from stableviton_core.correspondence.fit_field import fit_field
from stableviton_core.correspondence.garments import place_garments
from stableviton_core.correspondence.regions import find_region, make_spot
from stableviton_core.correspondence.score import score_tryons
from stableviton_core.correspondence.visibility import limit_to_visible
from stableviton_core.errors import ImageError, StableVITONError
from stableviton_core.model.config import NetworkConfig
from stableviton_core.model.zero_cross_attention import TryOnNetwork
from stableviton_core.person.densepose import LOWER_ARMS, TORSO

GRID = (32, 24)
SIZE = (256, 192)
WHOLE = np.ones(SIZE, np.float32)


# Attention


def test_the_summary_is_that_of_the_whole_map(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    q, k = (3 * torch.randn(2, 2, 48, 8, generator=generator) for _ in range(2))
    monkeypatch.setattr(attention_summary, "CHUNK_BYTES", 4 * 2 * 2 * 48 * 7)  # 7 tokens at a time
    summary = summarize_attention(q, k, (8, 6))
    whole = (q @ k.mT * 8**-0.5).softmax(dim=-1).mean(dim=1)
    assert torch.equal(summary.person, locate_tokens((8, 6))[whole.argmax(dim=1)])
    for item, token in ((0, 0), (1, 17), (1, 47)):
        row, column = divmod(whole[item, token].argmax().item(), 6)
        attention = whole[item, token].reshape(8, 6)
        rows, columns = (slice(max(x - 1, 0), x + 2) for x in (row, column))
        window = attention[rows, columns]
        assert summary.peak[item, token] == pytest.approx(window.sum().item(), abs=1e-5)
        ys = (torch.arange(8)[rows] + 0.5) / 8
        y = ((window.sum(dim=1) * ys).sum() / window.sum()).item()
        assert summary.garment[item, token, 1].item() == pytest.approx(y, abs=1e-5)


def test_attention_is_read_from_every_pass_and_outputs_stay():
    torch.manual_seed(0)
    config = NetworkConfig(
        model_channels=32, channel_mult=(1, 2), num_res_blocks=1, num_heads=2, context_dim=16
    )
    network = TryOnNetwork(config).eval()
    x, garment, context = torch.randn(1, 13, 10, 7), torch.randn(1, 4, 10, 7), torch.randn(1, 1, 16)
    with torch.no_grad():
        before = network(x, torch.tensor([10]), context, garment)
        with read_attention(network.zero_cross_attention, (10, 7)) as summaries:
            assert torch.equal(network(x, torch.tensor([10]), context, garment), before)
            network(x, torch.tensor([90]), context, garment)
        network(x, torch.tensor([10]), context, garment)
    assert [summary.grid for summary in summaries] == [(10, 7), (10, 7)] * 2


def test_the_noise_of_a_pass_is_the_same_for_every_item():
    noise = draw_common_noise(torch.zeros(3, 4, 8, 6))
    assert torch.equal(noise[0], noise[2]) and torch.equal(noise, draw_common_noise(noise))
    assert 0.8 < noise.std() < 1.2


# Field


def make_summary(garment: Tensor, grid: tuple[int, int] = GRID) -> AttentionSummary:
    """Sure attention of every token to a garment position, N x 2, and all of it mutual."""
    rows, columns = grid
    person = locate_tokens(grid)
    column = (garment[:, 0] * columns).long().clamp(0, columns - 1)
    row = (garment[:, 1] * rows).long().clamp(0, rows - 1)
    back = person.clone()
    back[row * columns + column] = person
    ones = torch.ones(1, len(garment))
    return AttentionSummary(grid, garment[None], 0.8 * ones, back[None])


def fit(
    summary: AttentionSummary, mask: np.ndarray = WHOLE, parts: np.ndarray | None = None
) -> CorrespondenceField:
    return fit_field([summary], 0, mask, parts, WHOLE)


def bend(points: Tensor) -> Tensor:
    x, y = points.unbind(-1)
    return torch.stack([0.1 + 0.7 * x + 0.1 * y * y, 0.05 + 0.8 * y - 0.1 * x * y], dim=-1)


def measure_errors(field: CorrespondenceField, truth: Tensor) -> Tensor:
    """Of every pixel, in tokens."""
    difference = field.coordinates[0].flatten(0, 1) - truth
    return (difference * torch.tensor([24.0, 32.0])).norm(dim=-1)


def test_a_smooth_field_is_found_among_tokens_that_attend_elsewhere():
    generator = torch.Generator().manual_seed(1)
    garment = bend(locate_tokens(GRID)) + 0.01 * torch.randn(768, 2, generator=generator)
    astray = torch.rand(768, generator=generator) < 0.4
    garment[astray] = torch.rand(int(astray.sum()), 2, generator=generator)
    field = fit(make_summary(garment))
    assert measure_errors(field, bend(locate_tokens(SIZE))).max() < 0.5
    assert field.confidence.mean() < 0.8, "two fifths of the attention do not agree"


def test_each_part_of_the_body_has_a_field_of_its_own():
    parts = np.full(SIZE, TORSO, np.uint8)
    parts[:, :64] = LOWER_ARMS["right"]
    tokens, pixels = locate_tokens(GRID), locate_tokens(SIZE)

    def move(points: Tensor) -> Tensor:
        arm = torch.stack([0.4 - 0.35 * points[:, 1], 0.1 + 2 * points[:, 0]], dim=-1)
        torso = 0.25 + 0.7 * points
        return torch.where(points[:, :1] < 1 / 3, arm, torso)

    summary = make_summary(move(tokens))
    truth = move(pixels)
    inside = (pixels[:, 0] - 1 / 3).abs() > 0.05
    by_part = measure_errors(fit(summary, parts=parts), truth)[inside]
    as_whole = measure_errors(fit(summary), truth)[inside]
    assert by_part.max() < 0.5 < 2 < as_whole.max()


def test_confidence_is_where_the_attention_agrees_and_only_inside_the_mask():
    garment = bend(locate_tokens(GRID))
    garment[: 16 * 24] = torch.rand(16 * 24, 2, generator=torch.Generator().manual_seed(0))
    mask = WHOLE.copy()
    mask[:, 96:] = 0
    field = fit(make_summary(garment), mask)
    upper, lower = field.confidence[0, :112, :80], field.confidence[0, 144:, :80]
    assert upper.mean() < 0.2 < 0.8 < lower.mean()
    assert not field.confidence[0, :, 96:].any()


def test_a_mask_that_covers_nothing_is_refused():
    summary = make_summary(bend(locate_tokens(GRID)))
    with pytest.raises(StableVITONError, match="the mask covers 0 of the network's tokens"):
        fit(summary, 0 * WHOLE)


def identity(size: tuple[int, int] = SIZE) -> CorrespondenceField:
    coordinates = locate_tokens(size).reshape(1, *size, 2)
    return make_field(coordinates)


def make_field(coordinates: Tensor, confidence: float = 1.0) -> CorrespondenceField:
    ones = torch.ones(coordinates.shape[:3])
    return CorrespondenceField(coordinates, confidence * ones, ones)


def test_the_identity_field_gives_the_garment_itself():
    garment = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(identity().warp(garment), garment, atol=1e-4)
    resized = identity((64, 48)).resize(*SIZE).warp(garment)
    assert torch.allclose(resized[..., 2:-2, 2:-2], garment[..., 2:-2, 2:-2], atol=1e-3)


def test_fields_are_taken_apart_and_put_together():
    one, two = identity(), make_field(identity().coordinates.flip(1), 0.5)
    both = concatenate_fields([one, two])
    assert len(both) == 2 and both.size == SIZE
    assert torch.equal(both[1:2].coordinates, two.coordinates)
    assert torch.equal(one.expand(3)[2:3].confidence, one.confidence)
    with pytest.raises(ImageError, match="try-on is 256 x 256 .* field 192 x 256"):
        both.check_aspect(256, 256)


def test_a_finer_garment_is_averaged_and_not_subsampled():
    stripes = torch.zeros(1, 3, 1024, 768)
    stripes[:, :, ::2] = 1
    assert torch.allclose(identity().warp(stripes), torch.tensor(0.5), atol=0.01)


def test_a_field_ends_where_the_tryon_shows_something_else():
    """The field goes on to the mask's border; the try-on shows a garment on the left only."""
    rng = np.random.default_rng(0)
    tryon = rng.normal((180, 160, 140), 6, (*SIZE, 3))
    tryon[40:220, 40:100] = rng.normal((60, 90, 160), 12, (180, 60, 3))
    mask = np.zeros(SIZE, np.float32)
    mask[30:230, 30:170] = 1
    garment_mask = torch.zeros(1, *SIZE)
    garment_mask[:, 40:220, 40:150] = 1
    field = replace(identity(), garment_mask=garment_mask)
    limited = limit_to_visible(field, tryon.clip(0, 255).astype(np.uint8), mask).confidence[0]
    assert limited[45:215, 45:95].mean() > 0.98 and limited[45:215, 105:].mean() < 0.02
    assert torch.equal(
        limit_to_visible(make_field(field.coordinates, 0), np.uint8(tryon), mask).confidence,
        torch.zeros(1, *SIZE),
    )


# Images


def test_garment_and_person_have_one_colour_where_they_match():
    garment = torch.full((1, *SIZE, 3), 0.5)
    image = draw_side_by_side(garment, torch.ones(1, *SIZE), garment, identity())
    assert image.shape == (1, 256, 384, 3)
    assert torch.allclose(image[:, :, :192], image[:, :, 192:], atol=1e-3)
    assert (image[0, 10, 10] - image[0, -10, -10]).abs().max() > 0.2


def test_dots_of_a_shifted_field_lie_where_it_points_to():
    size = (64, 48)
    shifted = make_field(identity(size).coordinates + torch.tensor([8 / 48, 0.0]))
    black = torch.zeros(1, *size, 3)
    drawn = draw_dots(black, torch.ones(1, *size), black, shifted)[0]
    dot = (drawn[32:40, :48].sum(dim=-1) > 0).nonzero()[:, 1].float().mean()
    person = (drawn[32:40, 48:].sum(dim=-1) > 0).nonzero()[:, 1].float().mean()
    assert 3 < dot - person < 9, "garment points from x = 8 on are 8 pixels to the left"


def test_a_spot_on_the_garment_is_found_where_the_field_has_it():
    heat = find_region(identity(), make_spot((0.25, 0.75), SIZE))
    row, column = np.unravel_index(heat[0].argmax().item(), SIZE)
    assert abs(row - 192) <= 1 and abs(column - 48) <= 1
    assert not find_region(make_field(identity().coordinates, 0), heat).any()


# Details


def make_striped(level: float = 1.0) -> Tensor:
    """IMAGE with stripes of 8 pixels, of 0.4 and 0.8 times the level."""
    image = torch.full((1, *SIZE, 3), 0.4 * level)
    image[:, torch.arange(256) % 8 < 4] = 0.8 * level
    return image


def carry(tryon: Tensor, garment: Tensor, mask: Tensor | None = None, **options) -> Tensor:
    ones = torch.ones(1, *garment.shape[1:3])
    mask = torch.ones(1, *tryon.shape[1:3]) if mask is None else mask
    return carry_details(tryon, garment, ones, identity(), mask, DetailOptions(**options))


def test_details_come_from_the_garment_and_the_shade_from_the_tryon():
    plain = torch.full((1, *SIZE, 3), 0.3)
    detailed = carry(plain, make_striped())
    inner = detailed[0, 64:192, 48:144]
    assert inner.mean().item() == pytest.approx(0.3, abs=0.02)
    assert inner.std().item() == pytest.approx(make_striped().std().item(), rel=0.1)


def test_the_garment_in_the_shade_stays_as_it_is():
    shaded = make_striped() * torch.linspace(0.7, 1.0, 192)[:, None]
    detailed = carry(shaded, make_striped())
    assert (detailed - shaded).abs().mean() < 0.03


def test_details_stay_inside_the_mask_and_where_the_field_is_sure():
    tryon, mask = torch.full((1, *SIZE, 3), 0.3), torch.zeros(1, *SIZE)
    mask[:, 50:200, 50:150] = 1
    detailed = carry(tryon, make_striped(), mask)
    assert torch.equal(detailed[mask == 0], tryon[mask == 0])
    assert not torch.equal(detailed, tryon)
    assert torch.equal(carry(tryon, make_striped(), mask, strength=0.0), tryon)
    unsure = make_field(identity().coordinates, 0)
    ones = torch.ones(1, *SIZE)
    same = carry_details(tryon, make_striped(), ones, unsure, mask, DetailOptions())
    assert torch.equal(same, tryon)


def test_finer_details_than_the_finest_stay_as_generated():
    tryon = make_striped(0.5)
    plain = torch.full((1, *SIZE, 3), 0.6)
    coarse_only = carry(tryon, plain, finest=6.0)[0, 64:192, 48:144]
    assert coarse_only.std() > 0.7 * tryon.std()
    assert carry(tryon, plain)[0, 64:192, 48:144].std() < 0.3 * tryon.std()


def test_a_larger_tryon_takes_details_of_a_larger_garment():
    garment = torch.zeros(1, 1024, 768, 3)
    garment[:, torch.arange(1024) % 8 < 4] = 1
    detailed = carry(torch.full((1, 1024, 768, 3), 0.5), garment)
    assert detailed[0, 256:768, 192:576].std() > 0.4, "stripes of 8 pixels at four times the size"


# Garments


def test_a_garment_of_another_aspect_is_padded_at_its_own_resolution():
    garment = torch.full((1, 300, 300, 3), 0.8)
    mask = torch.zeros(1, 300, 300)
    mask[:, 100:200, 100:200] = 1
    placed, placed_mask = place_garments(garment, mask, SIZE)
    assert placed.shape == (1, 400, 300, 3) and placed_mask.shape == (1, 400, 300)
    assert placed_mask.sum() == mask.sum() and not placed_mask[:, :140].any()
    with pytest.raises(ImageError, match="garment mask is 10 x 20"):
        place_garments(garment, torch.ones(1, 20, 10), SIZE)


# Score


def score(tryon: Tensor, field: CorrespondenceField | None = None):
    ones = torch.ones(1, *SIZE)
    return score_tryons(tryon, make_striped(), ones, field or identity(), ones)[0]


def test_the_garment_itself_scores_1():
    perfect = score(make_striped())
    assert perfect.total == pytest.approx(1, abs=0.01)


def test_each_part_of_the_score_sees_its_own_fault():
    assert score(make_striped(0.5)).colour < 0.75
    shifted = score(make_striped().roll(4, dims=1))
    assert shifted.structure < 0.1 and shifted.colour > 0.9
    unsure = make_field(identity().coordinates, 0.3)
    assert score(make_striped(), unsure).confidence == pytest.approx(0.3, abs=0.01)
    coordinates = identity().coordinates.clone()
    coordinates[:, :, 128:, 0] = coordinates[:, :, 64:128, 0].flip(2)  # the right is folded over
    folded = score(make_striped(), make_field(coordinates))
    assert folded.smoothness == pytest.approx(2 / 3, abs=0.02)
