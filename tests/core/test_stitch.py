"""A working image back in its photo: edges, bands and tones at the photo's scale."""

import math

import pytest
import torch

from helpers.golden import fill
from stableviton_core.errors import ImageError
from stableviton_core.person.crop import CropRegion, crop, find_crop_region
from stableviton_core.person.stitch import StitchOptions, _split_bands, enlarge_mask, stitch

ROWS, COLUMNS, SCALE = 512, 384, 8  # of the photo, and how much smaller the working image is
SQUARE = (slice(None), slice(16, 48), slice(12, 36))


def make_photo(rows: int = ROWS, columns: int = COLUMNS) -> torch.Tensor:
    return (fill("stitch", (1, rows, columns, 3), 0.1) + 0.5).clamp(0, 1)


def make_mask(value: float = 1.0) -> torch.Tensor:
    mask = torch.zeros(1, ROWS // SCALE, COLUMNS // SCALE)
    mask[SQUARE] = value
    return mask


def make_region(photo: torch.Tensor) -> CropRegion:
    return find_crop_region(photo, ROWS // SCALE, COLUMNS // SCALE)


def stitch_white(photo: torch.Tensor, mask: torch.Tensor, **options) -> torch.Tensor:
    image = torch.ones(1, ROWS // SCALE, COLUMNS // SCALE, 3)
    return stitch(make_region(photo), image, mask, StitchOptions(**options))


def test_the_edge_of_a_mask_is_sharp_at_the_photos_scale():
    mask = torch.eye(16)[None].cumsum(2)  # a diagonal edge
    enlarged = enlarge_mask(mask, (128, 128))
    assert set(enlarged.unique().tolist()) == {0.0, 1.0}
    assert enlarged.mean() == pytest.approx(0.5, abs=0.04)
    covered = torch.nn.functional.interpolate(mask[:, None], (128, 128), mode="nearest-exact")[:, 0]
    assert not (enlarged > covered).any()
    row = (enlarged[0].diff(dim=1) != 0).sum(dim=1)
    assert (row <= 1).all(), "the diagonal is one edge, without the steps' corners cut off"


def test_the_feather_is_in_pixels_of_the_photo():
    black = torch.zeros(1, ROWS, COLUMNS, 3)
    row = stitch_white(black, make_mask(), feather=3)[0, ROWS // 2, :, 0]
    left, right = 12 * SCALE, 36 * SCALE
    assert row[:left].max() == row[right:].max() == 0
    assert row[left : left + 4].tolist() == pytest.approx([0.25, 0.5, 0.75, 1.0], abs=0.01)
    assert (row[left + 4 : right - 4] == 1).all()
    sharp = stitch_white(black, make_mask(), feather=0)[0, ROWS // 2, :, 0]
    assert (sharp[left:right] == 1).all() and sharp[:left].max() == 0
    automatic = stitch_white(black, make_mask())[0, ROWS // 2, :, 0]
    assert torch.equal(
        automatic, stitch_white(black, make_mask(), feather=SCALE)[0, ROWS // 2, :, 0]
    )


def test_a_soft_mask_stays_soft():
    black = torch.zeros(1, ROWS, COLUMNS, 3)
    row = stitch_white(black, make_mask(0.25), feather=0)[0, ROWS // 2, :, 0]
    assert row[COLUMNS // 2] == 0.25


@pytest.mark.parametrize("blend", ["plain", "multi-band"])
@pytest.mark.parametrize("match_colour", [False, True])
def test_outside_the_mask_nothing_changes_and_identity_is_the_photo(blend, match_colour):
    photo = make_photo(64, 48)
    region = find_crop_region(photo, 64, 48)
    image, _ = crop(region, 64, 48)
    mask = make_mask()
    options = StitchOptions(blend=blend, match_colour=match_colour)
    assert torch.allclose(stitch(region, image, mask, options), photo, rtol=0, atol=1e-6)
    other = stitch(region, 1 - image, mask, options)
    assert torch.equal(other[mask == 0], photo[mask == 0])
    assert (other != photo).any(dim=-1)[mask == 1].all()


def test_bands_add_up():
    image = make_photo()[0].numpy()
    bands = _split_bands(image, 4)
    assert [len(band) for band in bands] == [512, 256, 128, 64, 32]
    assert abs(bands[2]).max() > 0.01


def test_multi_band_hides_a_step_of_tone():
    photo = torch.full((1, ROWS, COLUMNS, 3), 0.4)
    image = torch.full((1, ROWS // SCALE, COLUMNS // SCALE, 3), 0.6)
    rows = {}
    for blend in ("plain", "multi-band"):
        stitched = stitch(make_region(photo), image, make_mask(), StitchOptions(4, blend))
        rows[blend] = stitched[0, ROWS // 2, :, 0] - 0.4
    left, middle = 12 * SCALE, COLUMNS // 2
    assert rows["plain"][left + 8] == pytest.approx(0.2, abs=1e-3)
    assert rows["multi-band"][left + 8] < 0.15
    assert rows["multi-band"][middle] > 0.17
    assert (rows["multi-band"][:left] == 0).all()


def test_colours_are_matched_to_the_surroundings():
    photo = make_photo()
    region = make_region(photo)
    image, _ = crop(region, ROWS // SCALE, COLUMNS // SCALE)
    tinted = image + torch.tensor([0.1, -0.05, 0.0])
    mask, inside = make_mask(), enlarge_mask(make_mask(), (ROWS, COLUMNS)) > 0
    expected = stitch(region, image, mask)
    plain = stitch(region, tinted, mask)
    matched = stitch(region, tinted, mask, StitchOptions(match_colour=True))
    before, after = ((value - expected)[inside].mean(dim=0) for value in (plain, matched))
    assert before.tolist() == pytest.approx([0.1, -0.05, 0.0], abs=0.02)
    assert after.tolist() == pytest.approx([0, 0, 0], abs=0.005)


def test_the_photos_type_is_kept():
    photo = make_photo().half()
    stitched = stitch_white(photo, make_mask())
    assert stitched.dtype == torch.float16
    outside = enlarge_mask(make_mask(), (ROWS, COLUMNS)) == 0
    assert torch.equal(stitched[outside], photo[outside])


@pytest.mark.parametrize("size", [(64, 512), (512, 64), (64, 232), (8, 1024)])
def test_what_crop_made_is_taken_at_any_aspect(size):
    for rows, columns in ((37, 501), (501, 37), (333, 777)):
        region = find_crop_region(make_photo(rows, columns), *size)
        image, _ = crop(region, *size)
        assert stitch(region, image).shape == (1, rows, columns, 3)


def test_an_unknown_blend_is_an_error():
    with pytest.raises(ImageError, match=r"one of plain, multi-band, got 'poisson'"):
        stitch_white(make_photo(), make_mask(), blend="poisson")
    assert math.isfinite(stitch_white(make_photo(), make_mask()).sum().item())


def test_texture_reaches_the_edge_of_a_large_photo():
    """3000 x 4000: fine texture is as strong 8 pixels from the mask's edge as in its middle, and an
    unchanged crop at the photo's scale is the photo."""
    generator = torch.Generator().manual_seed(0)
    photo = 0.5 + 0.1 * torch.randn(1, 4000, 3000, 1, generator=generator).expand(-1, -1, -1, 3)
    photo = photo.clamp(0, 1)
    region = CropRegion(photo, 400, 300, 2048, 1536)
    mask = torch.zeros(1, 512, 384)
    mask[:, 100:400, 100:300] = 1
    image, _ = crop(region, 2048, 1536)
    assert torch.equal(stitch(region, image, enlarge_mask(mask, (2048, 1536))), photo)
    texture = 0.5 + 0.1 * torch.randn(1, 2048, 1536, 1, generator=generator).expand(-1, -1, -1, 3)
    stitched = stitch(region, texture.clamp(0, 1), enlarge_mask(mask, (2048, 1536)))
    left = 300 + 100 * 4  # of the mask in the photo
    rows = slice(900, 1900)
    edge, inside = (
        stitched[0, rows, left + start : left + start + 8, 0].std() for start in (0, 64)
    )
    assert edge >= 0.7 * inside
