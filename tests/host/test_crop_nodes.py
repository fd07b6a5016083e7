"""StableVITONCrop and StableVITONStitch on the real host."""

import pytest
import torch

from helpers.person_nodes import mask


@pytest.mark.parametrize("around", ["person", "whole photo"])
def test_stitch_puts_back_what_crop_took(host, photo, around):
    image, padding, region, _ = host.node(
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
        image, padding, region, _ = host.node(
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


def test_a_crop_around_a_mask(host, photo, errors):
    mask = torch.zeros(1, *photo.shape[1:3])
    mask[:, 200:300, 100:150] = 1
    inputs = {"photo": photo, "width": 192, "height": 256, "around": "mask"}
    _, _, (region,), _ = host.node("StableVITONCrop", **inputs, mask=mask, context=0.5)
    assert region.top <= 150 and region.top + region.height >= 350
    assert region.left <= 50 and region.left + region.width >= 200
    assert region.height == 200
    _, _, (close,), _ = host.node("StableVITONCrop", **inputs, mask=mask, context=0.0)
    assert close.height == 100
    with pytest.raises(errors, match="no mask is connected"):
        host.node("StableVITONCrop", **inputs)
    with pytest.raises(errors, match="mask is empty"):
        host.node("StableVITONCrop", **inputs, mask=torch.zeros_like(mask))


def test_a_person_that_is_not_there(host, photo, errors):
    inputs = {"photo": photo, "width": 192, "height": 256, "around": "garment"}
    with pytest.raises(errors, match="person 3 was asked for and this photo shows 1"):
        host.node("StableVITONCrop", **inputs, person=3)


def test_the_pose_of_the_person_taken(host, photo):
    """Of two persons the second: masks made from its pose are on it."""
    both = torch.cat([photo, photo.flip(2)], dim=2)
    inputs = {"photo": both, "width": 192, "height": 256, "around": "whole photo"}
    image, _, _, everyone = host.node("StableVITONCrop", **inputs)
    assert len(everyone[0]["people"]) == 2
    centres = []
    for person in range(2):
        inputs |= {"around": "person", "person": person, "context": 0.0}
        image, _, (region,), keypoints = host.node("StableVITONCrop", **inputs)
        (found,) = keypoints[0]["people"]
        points = torch.tensor(found["pose_keypoints_2d"]).view(-1, 3)
        points = points[points[:, 2] > 0, :2]
        centres.append(region.left + points[:, 0].mean().item() * region.width / 192)
        (masked, *_) = mask(host, image, pose_keypoint=keypoints)
        assert masked.any()
    assert abs(centres[0] - centres[1]) > photo.shape[2] / 2


def test_the_node_shows_the_crop(host, photo):
    import folder_paths
    from PIL import Image

    import nodes

    crop = nodes.NODE_CLASS_MAPPINGS["StableVITONCrop"]
    output = crop.execute(photo=photo, width=384, height=512, around="person")
    (shown,) = output.ui.as_dict()["images"]
    file = f"{folder_paths.get_temp_directory()}/{shown['subfolder']}/{shown['filename']}"
    with Image.open(file) as image:
        assert image.size == photo.shape[2:0:-1]
