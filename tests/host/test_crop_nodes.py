"""StableVITONCrop and StableVITONStitch on the real host."""

import pytest
import torch


@pytest.mark.parametrize("around", ["person", "whole photo"])
def test_stitch_puts_back_what_crop_took(host, photo, around):
    image, padding, region = host.node(
        "StableVITONCrop", photo=photo, width=384, height=512, around=around
    )
    assert image.shape == (1, 512, 384, 3) and padding.shape == (1, 512, 384)
    assert padding.any(), "512 x 600 is wider than 3:4, and so is this person"
    changed = torch.zeros(1, 512, 384)
    changed[:, 300:400, 150:250] = 1
    dressed = torch.where(changed[..., None] > 0, 1.0, image)
    (back,) = host.node("StableVITONStitch", crop=region, image=dressed, mask=changed)
    assert back.shape == photo.shape
    different = (back != photo).any(dim=-1)[0]
    share = different.float().mean() / (changed.mean() * region[0].height * region[0].width)
    assert 0 < share * photo.shape[1] * photo.shape[2] <= 1.1
    rows, columns = torch.nonzero(different, as_tuple=True)
    top, left = region[0].top, region[0].left
    scale = region[0].height / 512
    assert rows.min() >= top + 300 * scale - 1 and rows.max() <= top + 400 * scale + 1
    assert columns.min() >= left + 150 * scale - 1 and columns.max() <= left + 250 * scale + 1


def test_a_batch_of_crops_equals_single_ones(host, photo):
    batch = torch.cat([photo, photo.flip(2)])
    together = host.node("StableVITONCrop", photo=batch, width=192, height=256, around="person")
    for index in range(2):
        image, padding, region = host.node(
            "StableVITONCrop",
            photo=batch[index : index + 1],
            width=192,
            height=256,
            around="person",
        )
        assert torch.equal(together[0][index], image[0])
        assert together[2][index].left == region[0].left
    (back,) = host.node(
        "StableVITONStitch", crop=together[2], image=together[0], mask=torch.zeros(1, 256, 192)
    )
    assert torch.equal(back, batch)
