"""Photos of any size to the working size and back."""

import pytest
import torch

from helpers.golden import fill
from stableviton_core.errors import ImageError
from stableviton_core.person.crop import crop, fit, stitch


def photo(rows: int, columns: int, batch: int = 1) -> torch.Tensor:
    small = fill(f"photo/{rows}x{columns}", (batch, 3, 7, 5), 0.25) + 0.5
    large = torch.nn.functional.interpolate(small, size=(rows, columns), mode="bicubic")
    return large.clamp(0, 1).movedim(1, -1)


SIZES = [(512, 384), (600, 800), (1000, 300), (64, 48), (777, 1333), (1, 1)]


@pytest.mark.parametrize("size", SIZES)
def test_the_working_picture_is_not_stretched(size):
    image = photo(*size)
    frame = fit(image, 512, 384)
    assert abs(frame.width * 512 / 384 - frame.height) <= 1.5
    picture, padding = crop(frame, 512, 384)
    assert picture.shape == (1, 512, 384, 3) and padding.shape == (1, 512, 384)
    shown = 1 - padding.mean().item()
    expected = min(size[0] / size[1], 512 / 384) / max(size[0] / size[1], 512 / 384)
    if min(size) > 1:
        assert shown == pytest.approx(expected, abs=0.02), "the whole photo is in it"


@pytest.mark.parametrize("size", SIZES)
def test_outside_the_mask_the_photo_stays_exactly(size):
    image = photo(*size)
    before = image.clone()
    frame = fit(image, 512, 384)
    picture, _ = crop(frame, 512, 384)
    mask = torch.zeros(1, 512, 384)
    mask[:, 200:300, 150:250] = 1
    restored = stitch(frame, 1 - picture, mask)
    changed = (restored != image).any(-1)
    assert restored.shape == image.shape and torch.equal(image, before)
    assert torch.equal(stitch(frame, 1 - picture, torch.zeros(1, 512, 384)), image)
    rows, columns = frame.inside()
    large = torch.nn.functional.interpolate(
        mask[:, None], size=(frame.height, frame.width), mode="nearest-exact"
    )[:, 0]
    allowed = torch.zeros(1, *size).bool()
    allowed[:, rows, columns] = (
        large[
            :,
            rows.start - frame.top : rows.stop - frame.top,
            columns.start - frame.left : columns.stop - frame.left,
        ]
        > 0
    )
    assert not (changed & ~allowed).any()
    if min(size) > 1:
        assert changed[allowed].float().mean() > 0.9


def test_there_and_back_is_nearly_the_photo():
    image = photo(600, 800)
    frame = fit(image, 512, 384)
    picture, _ = crop(frame, 512, 384)
    assert (stitch(frame, picture) - image).abs().max() < 0.02
    same = photo(512, 384)
    frame = fit(same, 512, 384)
    picture, padding = crop(frame, 512, 384)
    assert torch.equal(picture, same) and not padding.any()
    assert torch.equal(stitch(frame, picture), same)


def test_a_frame_around_a_person():
    image = photo(600, 1200)
    frame = fit(image, 512, 384, person=(900, 100, 1000, 500))
    assert frame.top <= 100 and frame.top + frame.height >= 500
    assert frame.left <= 900 and frame.left + frame.width >= 1000
    assert frame.height < 600 and frame.top >= 0 and frame.left + frame.width <= 1200
    corner = fit(image, 512, 384, person=(1150, 550, 1200, 600))
    assert corner.top + corner.height == 600 and corner.left + corner.width == 1200


def test_what_cannot_be_framed_is_an_error():
    with pytest.raises(ImageError, match="multiples of 8"):
        fit(photo(64, 48), 500, 384)
    with pytest.raises(ImageError, match="12000 x 80.* crop the photo"):
        fit(torch.zeros(1, 80, 12000, 3), 512, 384)
    with pytest.raises(ImageError, match="box is empty"):
        fit(photo(64, 48), 64, 48, person=(10, 30, 20, 5))
    frame = fit(photo(64, 48), 64, 48)
    assert stitch(frame, photo(64, 48, batch=2)).shape[0] == 2, "one photo, two try-ons"
    with pytest.raises(ImageError, match="frame 1, image 2, mask 3"):
        stitch(frame, photo(64, 48, batch=2), torch.zeros(3, 64, 48))
    with pytest.raises(ImageError, match="The mask is 20 x 30"):
        stitch(frame, photo(64, 48), torch.zeros(1, 30, 20))
