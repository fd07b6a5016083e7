"""Keypoints: the shipped networks against MediaPipe, and the JSON of other packs."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stableviton_core.errors import StableVITONError
from stableviton_core.person.blazepose import detect_persons, estimate_body
from stableviton_core.person.networks import segment_people, segment_salient_object
from stableviton_core.person.pose import (
    COCO_18,
    Pose,
    pose_from_points,
    poses_from_json,
    poses_to_json,
)

REFERENCE = Path(__file__).resolve().parents[1] / "golden" / "person"


def photo(name: str) -> np.ndarray:
    if name == "hopper":
        return np.array(Image.open(REFERENCE / "grace_hopper.jpg").convert("RGB"))
    from skimage.data import astronaut

    return astronaut()


def overlap(one: np.ndarray, two: np.ndarray) -> float:
    return float((one & two).sum() / (one | two).sum())


@pytest.mark.parametrize("name", ["astronaut", "hopper"])
def test_pose_and_masks_are_mediapipes(name):
    reference = np.load(REFERENCE / "mediapipe_reference.npz")
    image = photo(name)
    (detection,) = detect_persons(image)
    body = estimate_body(image, detection)
    expected = reference[f"{name}_keypoints"]
    distance = np.linalg.norm(body.points - expected[:, :2], axis=1)
    assert np.median(distance) <= 4, "pixels; a network's pixel is 5 to 7 of them"
    assert np.abs(body.visibility - expected[:, 2]).max() < 0.2
    masks = {"pose": body.mask, "selfie": segment_people(image)}
    for kind, least in (("pose", 0.98), ("selfie", 0.98)):
        assert overlap(masks[kind] > 0.5, reference[f"{name}_{kind}_mask"] > 127) >= least, kind


def test_a_pose_holds_what_is_seen():
    image = photo("astronaut")
    pose = estimate_body(image, detect_persons(image)[0]).to_pose()
    assert pose.has("nose", "neck", "right_shoulder", "left_shoulder")
    assert not pose.has("left_ankle"), "it is outside the image"
    assert pose["right_shoulder"][0] < pose["left_shoulder"][0], "she faces the camera"


def test_nobody_is_found_where_nobody_is():
    assert detect_persons(np.zeros((64, 48, 3), np.uint8)) == []
    assert detect_persons(np.full((300, 20, 3), 200, np.uint8)) == []


def test_a_turned_photo_has_turned_points():
    image = photo("hopper")
    upright = estimate_body(image, detect_persons(image)[0]).points
    turned = np.ascontiguousarray(np.rot90(image))  # x, y -> y, width - 1 - x
    body = estimate_body(turned, detect_persons(turned)[0])
    back = np.stack([image.shape[1] - 1 - body.points[:, 1], body.points[:, 0]], axis=1)
    assert np.median(np.linalg.norm(back - upright, axis=1)[:17]) < 25


def test_the_salient_object_is_the_garment():
    image = np.full((400, 300, 3), 245, np.uint8)
    image[100:300, 80:220] = (150, 30, 60)
    mask = segment_salient_object(image)
    assert mask.shape == (400, 300) and mask[200, 150] > 0.9 and mask[20, 20] < 0.1
    assert not segment_salient_object(np.full((50, 50, 3), 7, np.uint8)).any()


def person(scale: float = 1.0, count: int = 18) -> list[float]:
    rng = np.random.default_rng(0)
    points = rng.uniform(0.1, 0.9, (count, 2)) * scale
    return np.concatenate([points, np.ones((count, 1))], axis=1).reshape(-1).tolist()


def test_pixels_and_shares_are_the_same_pose():
    shares = {"people": [{"pose_keypoints_2d": person()}], "canvas_width": 96, "canvas_height": 128}
    numbers = np.array(person()).reshape(-1, 3) * (96, 128, 1)
    pixels = shares | {"people": [{"pose_keypoints_2d": numbers.reshape(-1).tolist()}]}
    one, two = (poses_from_json(frame, 128, 96)[0].points for frame in (shares, pixels))
    assert np.allclose(one, two)
    larger = poses_from_json(pixels, 256, 192)[0].points
    assert np.allclose(larger, 2 * one)


def test_other_packs_json_is_read():
    body_25 = person(100, 25)
    small, large = person(40), person(90)
    missing = list(large)
    missing[3 * COCO_18.index("left_wrist") + 2] = 0  # no confidence
    frame = {
        "people": [
            {"pose_keypoints_2d": small, "face_keypoints_2d": None},
            {"pose_keypoints_2d": None},
            {"pose_keypoints_2d": missing, "foot_keypoints_2d": [1, 2, 1]},
        ]
    }
    poses = poses_from_json(frame, 100, 100)
    assert len(poses) == 2 and poses[0].size() > poses[1].size(), "the largest comes first"
    assert not poses[0].has("left_wrist") and poses[0].has("left_elbow")
    (pose,) = poses_from_json({"people": [{"pose_keypoints_2d": body_25}]}, 100, 100)
    assert np.allclose(pose["left_hip"], np.array(body_25).reshape(-1, 3)[12, :2])


def test_json_goes_out_and_comes_back():
    points = np.array(person(80)).reshape(-1, 3)[:, :2]
    points[4] = np.nan
    pose = Pose(points)
    (again,) = poses_from_json(poses_to_json([pose], 100, 90), 100, 90)
    assert np.allclose(again.points, points, equal_nan=True)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ([1, 2], "list 'people' for each image.* got list"),
        ({"keypoints": []}, "got dict with keypoints"),
        ({"people": [{"keypoints": [[1, 2]]}]}, "'pose_keypoints_2d', got dict with keypoints"),
        ({"people": [{"pose_keypoints_2d": ["a"] * 54}]}, "are numbers"),
        ({"people": [], "canvas_width": 20, "canvas_height": 10}, "aspects differ"),
        ({"people": [{"pose_keypoints_2d": [1.0] * 17}]}, r"\(54 or 75 numbers\), got 17"),
    ],
)
def test_another_schema_is_an_error(frame, message):
    with pytest.raises(StableVITONError, match=message):
        poses_from_json(frame, 10, 10)
    with pytest.raises(StableVITONError, match="got an array of 3 x 2"):
        pose_from_points([[1, 2]] * 3)
