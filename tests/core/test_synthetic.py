"""Synthetic samples: what is rendered, and that its ground truth is right."""

import numpy as np
import pytest

from stableviton_core.person.densepose import HANDS, PARULA_PALETTE, decode_parts
from stableviton_core.synthetic.draw_garment import PATCHWORK, generate_garment
from stableviton_core.synthetic.draw_person import generate_person
from stableviton_core.synthetic.renderer import render_sample


def pairs(count: int, height: int = 256):
    rng = np.random.default_rng(5)
    for _ in range(count):
        person = generate_person(rng)
        first, second = generate_garment(rng), generate_garment(rng)
        yield render_sample(person, first, height), render_sample(person, second, height)


def test_shapes_and_kinds():
    sample, _ = next(pairs(1, 192))
    for image in (sample.image, sample.garment, sample.agnostic, sample.densepose):
        assert image.shape == (192, 144, 3) and image.dtype == np.uint8
    for mask in (sample.mask, sample.warped_mask):
        assert mask.shape == (192, 144) and set(np.unique(mask)) <= {0, 255}
    with pytest.raises(ValueError, match="got 190"):
        render_sample(generate_person(np.random.default_rng(0)), None, 190)


def test_the_same_seed_draws_the_same():
    (first, _), (second, _) = next(pairs(1)), next(pairs(1))
    assert np.array_equal(first.image, second.image)


def test_the_mask_hides_the_garment_and_nothing_of_it_leaks():
    for sample, other in pairs(40):
        covered = (sample.mask[sample.warped_mask == 255] == 255).mean()
        assert covered >= 0.99
        assert np.array_equal(sample.mask, other.mask), "the mask tells what is worn"
        assert (sample.agnostic[sample.mask == 255] == 128).all()
        kept = sample.mask == 0
        leaked = (sample.agnostic[kept] != other.agnostic[kept]).any(axis=1).mean()
        assert leaked <= 0.002
        assert np.array_equal(sample.densepose, other.densepose)


def test_the_mask_leaves_the_inner_half_of_hands():
    """All of them would leave latent cells that show the old cuff."""
    for sample, _ in pairs(6):
        hands = np.isin(decode_parts(sample.densepose), list(HANDS.values()))
        assert 0.2 < (sample.mask[hands] == 0).mean() < 0.7


def test_densepose_is_in_the_trained_colours():
    palette = {tuple(colour) for colour in PARULA_PALETTE}
    sample, _ = next(pairs(1))
    assert {tuple(c) for c in sample.densepose.reshape(-1, 3)} <= palette
    assert PARULA_PALETTE[0].tolist() == [0, 0, 0] and len(palette) == 25


def test_the_worn_region_has_the_garments_colours():
    rng = np.random.default_rng(1)
    for _ in range(10):
        person, garment = generate_person(rng), generate_garment(rng)
        sample = render_sample(person, garment, 256)
        inside = sample.image[sample.warped_mask == 255].astype(float)
        colours = np.array([garment.colour, garment.accent], float)
        shades = np.linspace(0.72, 1, 8)[:, None, None] * colours
        nearest = np.abs(inside[:, None] - shades.reshape(1, -1, 3)).mean(-1).min(1)
        assert np.median(nearest) <= 6


def test_a_patchwork_shows_where_the_torso_came_from():
    rng = np.random.default_rng(2)
    person, garment = (generate_person(rng), generate_garment(rng, [PATCHWORK]))
    sample = render_sample(person, garment, 256)
    flat, worn = sample.garment[sample.garment_mask == 255], sample.image[sample.warped_mask == 255]
    colours, counts = np.unique(flat, axis=0, return_counts=True)
    patches = {tuple(colour) for colour in colours[counts > 30]}
    assert len(patches) >= 8, "few patches look alike"
    assert len(patches & {tuple(colour) for colour in worn}) >= 4, "the unshaded ones of the torso"
