"""What a crop is made around."""

import numpy as np
import pytest

from helpers.person_nodes import PHOTO
from stableviton_core.errors import StableVITONError
from stableviton_core.image_tensors import to_images
from stableviton_core.images import read_image
from stableviton_core.person.crop import CropRegion
from stableviton_core.person.crop_box import (
    _find_rows,
    find_garment_box,
    find_mask_box,
    find_person_box,
    locate_pose_in_crop,
    select_body,
)
from stableviton_core.person.pose import COCO_18, Pose

STANDING = {
    "neck": (50, 100), "right_hip": (40, 200), "left_hip": (60, 200),
    "right_knee": (40, 300), "left_knee": (60, 300),
}  # fmt: skip


def make_pose(**points: tuple[float, float]) -> Pose:
    return Pose(np.array([points.get(name, (np.nan, np.nan)) for name in COCO_18], np.float64))


def test_rows_of_a_standing_person():
    pose = make_pose(**STANDING)
    assert _find_rows(pose, "upper") == (-np.inf, 235)
    assert _find_rows(pose, "lower") == (160, np.inf)
    assert _find_rows(pose, "dress") == (-np.inf, np.inf)


def test_rows_without_all_joints():
    without_knees = {name: p for name, p in STANDING.items() if "knee" not in name}
    assert _find_rows(make_pose(**without_knees), "upper") == (-np.inf, 231.5)
    assert _find_rows(make_pose(neck=(50, 100)), "upper") == (-np.inf, np.inf)
    sitting = STANDING | {"right_knee": (40, 190), "left_knee": (60, 190)}
    assert _find_rows(make_pose(**sitting), "upper") == (-np.inf, 200)


@pytest.fixture(scope="module")
def two_persons() -> np.ndarray:
    photo = read_image(PHOTO)
    return np.concatenate([photo, photo[:, ::-1]], axis=1)


def test_persons_are_counted_or_drawn(two_persons):
    boxes = [find_person_box(select_body(two_persons, index)) for index in range(2)]
    width = two_persons.shape[1]
    chosen = []
    for column in (width // 4, width * 3 // 4):
        drawn = np.zeros(two_persons.shape[:2], bool)
        drawn[300:310, column - 5 : column + 5] = True
        chosen.append(find_person_box(select_body(two_persons, mask=drawn)))
    assert sorted(chosen) == sorted(boxes)
    left, right = chosen
    assert left[0] + left[2] < right[0] + right[2]
    with pytest.raises(StableVITONError, match="person 7 was asked for and this photo shows 2"):
        select_body(two_persons, 7)
    with pytest.raises(StableVITONError, match="nobody is under the mask"):
        select_body(two_persons, mask=np.zeros_like(drawn))


def test_all_of_a_person_whose_hips_are_not_in_the_photo():
    photo = read_image(PHOTO)
    body = select_body(photo)
    assert find_garment_box(photo, body, "upper") == find_person_box(body)
    left, top, right, bottom = find_person_box(body)
    wider = find_garment_box(photo, body, "dress")
    assert wider[0] <= left and wider[1] <= top and wider[2] >= right and wider[3] >= bottom


def test_the_pose_of_a_crop_without_the_head_is_that_of_the_photo(two_persons):
    """Where nobody is detected, the joints come from the photo, moved into the crop."""
    body = select_body(two_persons)
    height, width = two_persons.shape[:2]
    region = CropRegion(to_images([two_persons]), height - 200, 0, 200, width)
    blank = np.zeros((100, width // 2, 3), np.uint8)
    pose = locate_pose_in_crop(body, region, blank)
    expected = (body.to_pose().points - (0, height - 200)) / 2
    assert np.allclose(pose.points, expected, equal_nan=True)


def test_the_box_of_a_mask():
    mask = np.zeros((40, 30), bool)
    mask[10:20, 5:25] = True
    assert find_mask_box(mask) == (5, 10, 25, 20)
    with pytest.raises(StableVITONError, match="mask is empty"):
        find_mask_box(np.zeros((4, 4), bool))
