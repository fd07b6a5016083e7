"""Augmentation: which images transform together, and the range of the random parameters."""

from dataclasses import replace

import numpy as np
import pytest

from stableviton_core.dataset.samples import Sample
from stableviton_core.images import blend_agnostic_region, fill_agnostic_region
from stableviton_core.synthetic.draw_garment import PATCHWORK, generate_garment
from stableviton_core.synthetic.draw_person import generate_person
from stableviton_core.synthetic.renderer import render_sample
from stableviton_core.training.augmentation import (
    Affine,
    Augmentation,
    ColourJitter,
    augment,
    sample_augmentation,
)

AFFINE = Affine(0.11, -0.07, 0.9)


@pytest.fixture(scope="module")
def sample() -> Sample:
    rng = np.random.default_rng(4)
    return render_sample(generate_person(rng), generate_garment(rng), 128)


def equal(one: Sample, two: Sample) -> bool:
    return all(
        np.array_equal(a, b) for a, b in zip(vars(one).values(), vars(two).values(), strict=True)
    )


def test_the_default_changes_nothing(sample):
    assert equal(augment(sample, Augmentation()), sample)


@pytest.mark.parametrize("seed", range(8))
def test_moving_then_splitting_is_splitting_then_moving(sample, seed):
    """The split of a person into agnostic image and mask does not depend on when it is made."""
    augmentation = sample_augmentation(np.random.default_rng(seed))
    late = augment(replace(sample, agnostic=sample.image), augmentation)
    early = augment(
        replace(sample, agnostic=fill_agnostic_region(sample.image, sample.mask)), augmentation
    )
    assert np.array_equal(blend_agnostic_region(late.image, late.mask), early.agnostic)
    assert np.array_equal(late.mask, early.mask)


def test_mask_and_densepose_move_with_the_person(sample):
    """A bright spot in all images of the person's side stays one spot."""
    marked = {}
    for name in ("image", "mask", "densepose", "warped_mask"):
        image = np.zeros_like(getattr(sample, name))
        image[50:70, 40:60] = 255
        marked[name] = image
    moved = augment(replace(sample, **marked), Augmentation(flip=True, person=AFFINE))
    spots = [
        np.argwhere(getattr(moved, name).reshape(128, 96, -1)[..., 0] > 127) for name in marked
    ]
    centres = np.array([spot.mean(axis=0) for spot in spots])
    assert np.abs(centres - centres[0]).max() < 0.6
    assert np.array_equal(moved.garment, sample.garment[:, ::-1]), "the garment only turns"


def test_the_garment_moves_alone(sample):
    moved = augment(sample, Augmentation(garment=AFFINE))
    assert not np.array_equal(moved.garment, sample.garment)
    assert equal(
        replace(moved, garment=sample.garment, garment_coordinates=sample.garment_coordinates),
        sample,
    )


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(),
        Augmentation(flip=True),
        Augmentation(person=AFFINE),
        Augmentation(garment=AFFINE),
        Augmentation(flip=True, person=AFFINE, garment=Affine(-0.15, 0.2, 1.2)),
    ],
)
def test_garment_coordinates_point_at_the_colours_on_the_person(augmentation):
    rng = np.random.default_rng(5)
    person, garment = (generate_person(rng), generate_garment(rng, [PATCHWORK]))
    moved = augment(render_sample(person, garment, 256), augmentation)
    known = moved.garment_coordinates[..., 2] > 0
    assert known.mean() > 0.08 and (moved.warped_mask[known] == 255).mean() > 0.98
    columns, rows = (moved.garment_coordinates[known][:, :2] / 255 * (192, 256)).astype(int).T
    there = moved.garment[rows.clip(max=255), columns.clip(max=191)].astype(float)
    here = moved.image[known] / 0.87  # shading is 0.8 to 1, on arms another 0.9
    assert np.median(np.abs(here - there)) < 12
    assert np.median(np.abs(here - there[::-1])) > 30, "the test could not fail"


def test_a_shift_by_hand(sample):
    moved = augment(sample, Augmentation(person=Affine(0.25, 0.125, 1.0)))  # 24 and 16 pixels
    assert np.array_equal(moved.image[16:, 24:], sample.image[:-16, :-24])
    assert not moved.image[:16].any() and not moved.image[:, :24].any()
    assert np.array_equal(moved.mask[16:, 24:], sample.mask[:-16, :-24])


def test_a_shift_is_not_scaled(sample):
    image = np.zeros_like(sample.image)
    image[32:96, 24:72] = 255
    affine = Affine(0.25, 0.125, 0.5)  # 24 and 16 pixels
    moved = augment(replace(sample, image=image), Augmentation(person=affine))
    rows, columns = np.nonzero(moved.image[..., 0] > 127)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (64, 95, 60, 83)


def test_scaling_is_about_the_middle(sample):
    image = np.zeros_like(sample.image)
    image[32:96, 24:72] = 255
    moved = augment(replace(sample, image=image), Augmentation(person=Affine(0, 0, 0.5)))
    rows, columns = np.nonzero(moved.image[..., 0] > 127)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (48, 79, 36, 59)


def test_colours_by_hand(sample):
    image = np.full_like(sample.image, 100)
    changed = augment(
        replace(sample, image=image),
        Augmentation(colours=ColourJitter(brightness=-0.1, contrast=0.3)),
    )
    assert (changed.image == 104).all()  # 1.3 * 100 - 25.5, rounded to even
    assert (changed.agnostic[sample.mask > 0] == 128).all(), "grey is no colour of the image"
    assert not np.array_equal(changed.garment, sample.garment)
    assert np.array_equal(changed.densepose, sample.densepose)


def test_everything_moves_linearly(sample):
    """Half a pixel to the right and down: each value is the mean of four."""
    half = Affine(0.5 / 96, 0.5 / 128, 1.0)
    moved = augment(sample, Augmentation(person=half))
    for name in ("image", "mask", "densepose"):
        image = getattr(sample, name).astype(float)
        mean = (image[1:, 1:] + image[:-1, 1:] + image[1:, :-1] + image[:-1, :-1]) / 4
        assert np.abs(getattr(moved, name)[1:, 1:] - mean).max() <= 1.01, name
    soft = (moved.mask > 0) & (moved.mask < 255)
    assert soft.any(), "the edge of the mask is soft"
    grey = (moved.image[soft] * (1 - moved.mask[soft][:, None] / 255.0)) + 128 * (
        moved.mask[soft][:, None] / 255.0
    )
    assert np.abs(moved.agnostic[soft] - grey).max() <= 1.01


def test_draws_are_within_the_papers_ranges():
    rng = np.random.default_rng(0)
    samples = [sample_augmentation(rng) for _ in range(600)]
    moves = [d.person for d in samples if d.person]
    assert abs(len(moves) / 600 - 0.5) < 0.08
    assert abs(np.mean([d.flip for d in samples]) - 0.5) < 0.08
    assert max(abs(m.x) for m in moves) <= 0.2 and min(m.scale for m in moves) >= 0.8
    assert max(m.scale for m in moves) > 1.15
    both = np.mean([bool(d.person) and bool(d.garment) for d in samples])
    assert abs(both - 0.25) < 0.07, "the sides are independent"
    brightness = [d.colours.brightness for d in samples if d.colours.brightness]
    assert -0.1 <= min(brightness) < -0.08 and 0.01 < max(brightness) <= 0.02
