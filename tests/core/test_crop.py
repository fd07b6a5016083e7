"""Photos of any size to the working size and back."""

import pytest
import torch
from einops import rearrange

from helpers.golden import fill
from stableviton_core.errors import ImageError
from stableviton_core.person.crop import crop, find_crop_region
from stableviton_core.person.stitch import stitch


def photo(rows: int, columns: int, batch: int = 1) -> torch.Tensor:
    small = fill(f"photo/{rows}x{columns}", (batch, 3, 7, 5), 0.25) + 0.5
    large = torch.nn.functional.interpolate(small, size=(rows, columns), mode="bicubic")
    return rearrange(large.clamp(0, 1), "b c h w -> b h w c")


SIZES = [(512, 384), (600, 800), (1000, 300), (64, 48), (777, 1333), (1, 1)]


@pytest.mark.parametrize("size", SIZES)
def test_the_working_image_is_not_stretched(size):
    image = photo(*size)
    region = find_crop_region(image, 512, 384)
    assert abs(region.width * 512 / 384 - region.height) <= 1.5
    working, padding = crop(region, 512, 384)
    assert working.shape == (1, 512, 384, 3) and padding.shape == (1, 512, 384)
    shown = 1 - padding.mean().item()
    expected = min(size[0] / size[1], 512 / 384) / max(size[0] / size[1], 512 / 384)
    if min(size) > 1:
        assert shown == pytest.approx(expected, abs=0.02), "the whole photo is in it"


@pytest.mark.parametrize("size", SIZES)
def test_outside_the_mask_the_photo_stays_exactly(size):
    image = photo(*size)
    before = image.clone()
    region = find_crop_region(image, 512, 384)
    working, _ = crop(region, 512, 384)
    mask = torch.zeros(1, 512, 384)
    mask[:, 200:300, 150:250] = 1
    restored = stitch(region, 1 - working, mask)
    changed = (restored != image).any(-1)
    assert restored.shape == image.shape and torch.equal(image, before)
    assert torch.equal(stitch(region, 1 - working, torch.zeros(1, 512, 384)), image)
    rows, columns = region.slices_in_photo()
    large = torch.nn.functional.interpolate(
        mask[:, None], size=(region.height, region.width), mode="nearest-exact"
    )[:, 0]
    allowed = torch.zeros(1, *size).bool()
    allowed[:, rows, columns] = (
        large[
            :,
            rows.start - region.top : rows.stop - region.top,
            columns.start - region.left : columns.stop - region.left,
        ]
        > 0
    )
    assert region.slices_in_region() == (
        slice(rows.start - region.top, rows.stop - region.top),
        slice(columns.start - region.left, columns.stop - region.left),
    )
    assert not (changed & ~allowed).any()
    if min(size) > 1:
        assert changed[allowed].float().mean() > 0.9


def test_there_and_back_is_nearly_the_photo():
    image = photo(600, 800)
    region = find_crop_region(image, 512, 384)
    working, _ = crop(region, 512, 384)
    assert (stitch(region, working) - image).abs().max() < 0.02
    same = photo(512, 384)
    region = find_crop_region(same, 512, 384)
    working, padding = crop(region, 512, 384)
    assert torch.equal(working, same) and not padding.any()
    assert torch.equal(stitch(region, working), same)


def test_a_frame_around_a_person():
    image = photo(600, 1200)
    region = find_crop_region(image, 512, 384, (900, 100, 1000, 500))
    assert region.top <= 100 and region.top + region.height >= 500
    assert region.left <= 900 and region.left + region.width >= 1000
    assert region.height < 600 and region.top >= 0 and region.left + region.width <= 1200
    corner = find_crop_region(image, 512, 384, (1150, 550, 1200, 600))
    assert corner.top + corner.height == 600 and corner.left + corner.width == 1200


def test_what_cannot_be_cropped_is_an_error():
    with pytest.raises(ImageError, match="multiples of 8"):
        find_crop_region(photo(64, 48), 500, 384)
    with pytest.raises(ImageError, match="12000 x 80.* crop the photo"):
        find_crop_region(torch.zeros(1, 80, 12000, 3), 512, 384)
    with pytest.raises(ImageError, match="crop around is empty"):
        find_crop_region(photo(64, 48), 64, 48, (10, 30, 20, 5))
    region = find_crop_region(photo(64, 48), 64, 48)
    assert stitch(region, photo(64, 48, batch=2)).shape[0] == 2, "one photo, two try-ons"
    with pytest.raises(ImageError, match="crop 1, image 2, mask 3"):
        stitch(region, photo(64, 48, batch=2), torch.zeros(3, 64, 48))
    with pytest.raises(ImageError, match="The mask is 20 x 30"):
        stitch(region, photo(64, 48), torch.zeros(1, 30, 20))
