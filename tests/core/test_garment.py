"""Garments laid flat, and label maps of other tools."""

import numpy as np
import pytest

from stableviton_core.errors import StableVITONError
from stableviton_core.person.garment import place_on_white, segment_garment
from stableviton_core.person.labels import (
    ATR,
    CIHP,
    LIP,
    colour_labels,
    decode_labels,
    get_label_ids,
    make_label_palette,
)
from stableviton_core.synthetic.draw_garment import generate_garment
from stableviton_core.synthetic.draw_person import generate_person
from stableviton_core.synthetic.renderer import render_sample


def test_a_garment_is_centred_on_white_and_not_stretched():
    photo = np.full((300, 500, 3), 90, np.uint8)
    mask = np.zeros((300, 500), np.float32)
    mask[40:140, 300:350] = 1
    photo[40:140, 300:350] = (200, 30, 60)
    flat, own = place_on_white(photo, mask, 512, 384)
    assert flat.shape == (512, 384, 3) and own.shape == (512, 384)
    rows, columns = np.nonzero(own > 0.5)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert height == pytest.approx(0.88 * 512, abs=3) and height / width == pytest.approx(
        2, abs=0.05
    )
    assert abs(rows.mean() - 255.5) < 1 and abs(columns.mean() - 191.5) < 1
    assert (flat[5, 5] == 255).all() and np.abs(
        flat[256, 192].astype(int) - (200, 30, 60)
    ).max() < 2
    small, _ = place_on_white(photo, mask, 64, 48)
    assert np.abs(small[32, 24].astype(int) - (200, 30, 60)).max() < 3


def test_the_shipped_network_finds_the_garment():
    rng = np.random.default_rng(0)
    sample = render_sample(generate_person(rng), generate_garment(rng), 256)
    found, true = segment_garment(sample.garment) > 0.5, sample.garment_mask > 0
    assert (found & true).sum() / (found | true).sum() > 0.9


def test_nothing_to_lay_flat_is_an_error():
    plain = np.full((60, 40, 3), 128, np.uint8)
    red = np.zeros((60, 40, 3), np.uint8)
    red[..., 0] = 180
    for ground in (plain, red):
        with pytest.raises(StableVITONError, match="no garment stands out"):
            segment_garment(ground)
    with pytest.raises(StableVITONError, match=r"mask is \(10, 20\) and the photo \(40, 60\)"):
        place_on_white(plain, np.ones((20, 10), np.float32), 512, 384)
    with pytest.raises(StableVITONError, match="mask is empty"):
        place_on_white(plain, np.zeros((60, 40), np.float32), 512, 384)


def labels(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, count, (30, 20)).astype(np.uint8)


def test_viton_hds_labels_round_trip():
    parse = labels(len(CIHP))
    assert np.array_equal(decode_labels(colour_labels(parse), "viton-hd"), parse)
    grey = np.repeat(parse[..., None], 3, axis=2)
    assert np.array_equal(decode_labels(grey, "viton-hd"), parse), "images whose levels are ids"


@pytest.mark.parametrize(("scheme", "names"), [("lip", LIP), ("atr", ATR)])
def test_other_schemes_come_under_the_same_names(scheme, names):
    parse = labels(len(names))
    decoded = decode_labels(make_label_palette(scheme)[parse], scheme)
    assert np.array_equal(decoded, np.array(get_label_ids(*names))[parse])


def test_the_atr_palette_is_pascals():
    assert make_label_palette("atr")[:5].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [128, 128, 0],
        [0, 0, 128],
    ]


def test_a_photo_is_no_label_map():
    photo = np.random.default_rng(0).integers(0, 256, (30, 20, 3)).astype(np.uint8)
    atr = make_label_palette("atr")[labels(len(ATR))]
    for image in (photo, atr, np.zeros_like(photo)):
        with pytest.raises(StableVITONError, match="no label map in viton-hd's colours"):
            decode_labels(image, "viton-hd")
