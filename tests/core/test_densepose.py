"""DensePose: colours, the networks' outputs, and the approximation from a skeleton."""

import cv2
import numpy as np
import pytest
import torch

from stableviton_core.errors import StableVITONError
from stableviton_core.person import densepose
from stableviton_core.person.densepose import (
    PARULA_PALETTE,
    choose_box,
    colour_parts,
    decode_parts,
    draw_parts,
)
from stableviton_core.person.labels import CIHP
from stableviton_core.person.pose import COCO_18, Pose
from stableviton_core.person.skeleton import (
    approximate_parse,
    approximate_parts,
    draw_skeleton,
    locate_hips,
)


@pytest.fixture
def parts() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 25, (40, 30)).astype(np.uint8)


def viridis(parts: np.ndarray) -> np.ndarray:
    levels = (parts * (255 / 24)).astype(np.uint8)
    return cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[..., ::-1]


def test_the_palette_round_trips(parts):
    assert len({tuple(colour) for colour in PARULA_PALETTE}) == 25
    assert np.array_equal(decode_parts(colour_parts(parts)), parts)


def test_other_packs_colours_are_decoded(parts):
    image = viridis(parts)
    assert np.array_equal(decode_parts(image), parts)
    on_black = image.copy()
    on_black[parts == 0] = 0
    assert np.array_equal(decode_parts(on_black), parts)
    noisy = np.clip(
        image.astype(int) + np.random.default_rng(1).integers(-2, 3, image.shape), 0, 255
    )
    assert (decode_parts(noisy.astype(np.uint8)) == parts).mean() > 0.99


def test_what_is_no_densepose_image_is_an_error():
    photo = np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8)
    on_black = np.zeros((200, 200, 3), np.uint8)
    on_black[80:120, 90:120] = photo
    for image in (photo, on_black, draw_skeleton(upright(), 360, 200)):
        with pytest.raises(StableVITONError, match="Parula's nor Viridis"):
            decode_parts(image)
    with pytest.raises(StableVITONError, match="it is empty"):
        decode_parts(np.zeros((40, 30, 3), np.uint8))


def outputs(boxes: list[list[float]], part: int) -> tuple[torch.Tensor, ...]:
    """What a network says of people that are one part each, in a disc."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 56)] * 2, indexing="ij")
    body = (x.square() + y.square() < 0.8).float()
    coarse = torch.stack([1 - body, body])
    fine = torch.zeros(25, 56, 56)
    fine[part] = 1
    count = len(boxes)
    return (
        torch.tensor(boxes).reshape(count, 4),
        coarse[None].expand(count, -1, -1, -1),
        fine[None].expand(count, -1, -1, -1),
    )


def test_a_networks_outputs_become_parts_in_the_box():
    result = draw_parts(*outputs([[10.0, 20.0, 50.0, 80.0]], 2), 0, 100, 60)
    assert result.shape == (100, 60) and set(np.unique(result)) == {0, 2}
    rows, columns = np.nonzero(result)
    assert 20 <= rows.min() < 26 and 74 < rows.max() < 80
    assert 10 <= columns.min() < 14 and 46 < columns.max() < 50
    fraction = draw_parts(*outputs([[10.6, 20.0, 20.4, 80.0]], 2), 0, 100, 60)
    assert np.nonzero(fraction)[1].max() <= 18, "nine pixels wide, from 10"
    with pytest.raises(StableVITONError, match="no body part"):
        draw_parts(*outputs([[200.0, 20.0, 250.0, 80.0]], 2), 0, 100, 60)
    beyond = draw_parts(*outputs([[-20.0, -30.0, 90.0, 140.0]], 2), 0, 100, 60)
    assert beyond.shape == (100, 60) and beyond[50, 30] == 2


def test_the_person_is_chosen():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 60, 90], [70, 70, 80, 80]])
    assert choose_box(boxes) == 1
    assert choose_box(boxes, point=(76, 74)) == 2
    with pytest.raises(StableVITONError, match="found nobody"):
        choose_box(torch.zeros(0, 4))


def upright() -> Pose:
    points = np.full((18, 2), np.nan)
    garment_coordinates = {
        "nose": (100, 40), "neck": (100, 75),
        "right_shoulder": (70, 80), "left_shoulder": (130, 80),
        "right_elbow": (55, 130), "left_elbow": (145, 130), "right_wrist": (50, 175),
        "left_wrist": (150, 175), "right_hip": (80, 180), "left_hip": (120, 180),
        "right_knee": (80, 250), "left_knee": (120, 250), "right_ankle": (80, 320),
        "left_ankle": (120, 320),
    }  # fmt: skip
    for name, place in garment_coordinates.items():
        points[COCO_18.index(name)] = place
    return Pose(points)


def test_a_skeleton_gives_the_parts_where_they_are():
    person = np.zeros((360, 200), bool)
    person[10:350, 30:170] = True
    parts = approximate_parts(upright(), person)
    assert not parts[~person].any() and parts[person].all()
    expected = {
        (130, 100): densepose.TORSO, (35, 100): densepose.HEAD,
        (105, 62): densepose.UPPER_ARMS["right"], (155, 148): densepose.LOWER_ARMS["left"],
        (190, 49): densepose.HANDS["right"], (215, 80): densepose.UPPER_LEGS["right"],
        (290, 120): densepose.LOWER_LEGS["left"], (338, 120): densepose.FEET["left"],
    }  # fmt: skip
    assert {place: int(parts[place]) for place in expected} == expected
    parse = approximate_parse(parts)
    assert [int(parse[y, 100]) for y in (130, 35)] == [5, 13], "upper and face"
    assert CIHP[parse[190, 49]] == "glove", "hands are told from arms"


def test_half_a_person_is_enough():
    points = upright().points.copy()
    points[8:14] = np.nan
    parts = approximate_parts(Pose(points), np.ones((360, 200), bool))
    assert {densepose.TORSO, densepose.UPPER_LEGS["left"]} <= set(np.unique(parts))
    assert densepose.LOWER_LEGS["left"] not in parts, "where knees are, nobody knows"
    one_hip = upright().points.copy()
    one_hip[COCO_18.index("left_hip")] = np.nan
    hips = locate_hips(Pose(one_hip), 60)
    assert np.allclose(hips, [(80, 180), (140, 180)]), "a shoulder width beside the other"
    points[2] = np.nan
    with pytest.raises(StableVITONError, match="lacks a shoulder"):
        approximate_parts(Pose(points), np.ones((200, 200), bool))


def test_a_skeleton_is_drawn():
    canvas = draw_skeleton(upright(), 360, 200)
    assert canvas.shape == (360, 200, 3) and canvas[80, 85].any() and not canvas[5, 5].any()
    assert not draw_skeleton(Pose(np.full((18, 2), np.nan)), 20, 20).any()


def test_every_part_has_a_label():
    labels = approximate_parse(np.arange(25, dtype=np.uint8))
    assert labels[0] == 0 and (labels[1:] > 0).all(), "backs and both halves of the head too"
    assert [CIHP[labels[part]] for part in (1, 24, 17, 22, 8)] == [
        "upper", "face", "left_arm", "right_arm", "pants"
    ]  # fmt: skip
