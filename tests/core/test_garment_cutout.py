"""Garments as people photograph them: hanging, askew, worn; and their shape."""

import cv2
import numpy as np
import pytest

from stableviton_core.errors import StableVITONError
from stableviton_core.images import read_image
from stableviton_core.person.agnostic import MaskOptions, PersonInputs, make_agnostic_mask
from stableviton_core.person.analysis import NoPersonError
from stableviton_core.person.garment_cutout import (
    _find_hook,
    cut_out_garment,
    cut_out_worn_garment,
    find_tilt,
)
from stableviton_core.person.garment_shape import GarmentShape, measure_garment
from stableviton_core.person.labels import CIHP
from stableviton_core.person.pose import COCO_18, Pose
from stableviton_core.serving.install import PACK
from stableviton_core.synthetic.draw_garment import draw_flat_garment, generate_garment

HOPPER = PACK / "tests" / "golden" / "person" / "grace_hopper.jpg"


def draw_garment(seed: int, ground: int = 250) -> tuple[np.ndarray, np.ndarray, bool]:
    """A photo, the garment's mask, and whether its sleeves are long."""
    garment = generate_garment(np.random.default_rng(seed), ("plain",))
    texture, parts = draw_flat_garment(garment, 400)
    mask = np.maximum.reduce(parts) > 0
    texture = np.where(mask[..., None], (200, 40, 60), ground).astype(np.uint8)
    return texture, mask, garment.long_sleeves


def measure_iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def turn(image: np.ndarray, angle: float, border: int) -> np.ndarray:
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 0.7)
    return cv2.warpAffine(image, matrix, (width, height), borderValue=[border] * 3)


@pytest.mark.parametrize("angle", [-30, -12, 20])
@pytest.mark.parametrize("seed", [0, 2])
def test_a_garment_that_lies_askew_is_turned(seed, angle):
    photo, mask, _ = draw_garment(seed)
    askew = turn(mask.astype(np.float32), angle, 0)
    assert find_tilt(askew > 0.5) == pytest.approx(-angle, abs=2)
    assert find_tilt(mask) == 0
    straight = cut_out_garment(turn(photo, angle, 250), askew)
    assert abs(find_tilt(straight.mask > 0.5)) <= 2
    kept = cut_out_garment(photo, askew, straighten=False)
    assert kept.mask is askew


@pytest.mark.parametrize("shape", [(1000, 1), (1, 1000), (1, 1)])
def test_a_line_is_straight(shape):
    assert find_tilt(np.ones(shape, bool)) == 0


def test_a_hook_is_taken_off_and_straps_stay():
    photo, mask, _ = draw_garment(2)
    middle, top = 150, int(np.flatnonzero(mask[:, 150])[0])
    hanging = photo.copy()
    cv2.rectangle(hanging, (middle - 3, top - 60), (middle + 2, top + 5), (60, 60, 60), -1)
    cut_out = cut_out_garment(hanging)
    assert measure_iou(cut_out.mask > 0.5, mask) > 0.9
    assert not (cut_out.mask[: top - 30, 142:158] > 0.5).any()
    dress = np.zeros((400, 300, 3), np.uint8) + 250
    cv2.rectangle(dress, (90, 150), (210, 380), (200, 40, 60), -1)
    for x in (110, 190):
        cv2.rectangle(dress, (x - 3, 60), (x + 3, 160), (200, 40, 60), -1)
    straps = (dress == (200, 40, 60)).all(axis=-1)
    assert not _find_hook(straps).any()


def test_doubts_are_said():
    photo, _, _ = draw_garment(2)
    assert cut_out_garment(photo).warnings == ()
    cropped = photo[:, 60:]
    assert any("border" in warning for warning in cut_out_garment(cropped).warnings)
    worn = cut_out_garment(read_image(HOPPER)).warnings
    assert any("person" in warning for warning in worn)


def test_a_worn_garment_is_cut_out_of_its_wearer():
    photo = read_image(HOPPER)
    cut_out = cut_out_worn_garment(photo, "upper")
    height, width = photo.shape[:2]
    mask = cut_out.mask > 0.5
    assert mask[int(0.75 * height) :, width // 4 : 3 * width // 4].mean() > 0.98
    assert not mask[: int(0.45 * height)].any()
    with pytest.raises(NoPersonError):
        cut_out_worn_garment(np.full((300, 200, 3), 120, np.uint8), "upper")
    with pytest.raises(StableVITONError, match="no garment of the category 'lower'"):
        cut_out_worn_garment(photo, "lower")


def test_what_is_in_front_is_filled(monkeypatch):
    """An arm across the garment: its pixels become the garment's."""
    photo = np.full((200, 150, 3), 250, np.uint8)
    photo[40:180, 30:120] = (200, 40, 60)
    photo[100:106, 20:130] = (240, 200, 170)
    parse = np.zeros((200, 150), np.uint8)
    parse[40:180, 30:120] = CIHP.index("upper")
    parse[100:106, 20:130] = CIHP.index("left_arm")
    monkeypatch.setattr(
        "stableviton_core.person.garment_cutout.parse_person", lambda *_, **__: (None, parse)
    )
    monkeypatch.setattr("stableviton_core.person.garment_cutout.find_bodies", lambda _: [])
    cut_out = cut_out_worn_garment(photo, "upper")
    assert (cut_out.mask[100:106, 35:115] > 0.5).all()
    assert np.abs(cut_out.photo[103, 60].astype(int) - (200, 40, 60)).max() < 12
    (warning,) = cut_out.warnings
    assert warning == "4% of the garment was behind hands, arms or hair, and is filled."


@pytest.mark.parametrize("seed", range(6))
def test_sleeves_are_as_long_as_drawn(seed):
    _, mask, long_sleeves = draw_garment(seed)
    shape = measure_garment(mask)
    if long_sleeves:
        assert shape.sleeve == 1
    else:
        assert shape.sleeve == pytest.approx(0.34, abs=0.06)  # 0.62 of the upper arm
    assert shape.length == pytest.approx(2.3, abs=0.2)


def test_a_rectangle_has_no_sleeves():
    mask = np.zeros((200, 150), bool)
    mask[20:180, 40:110] = True
    shape = measure_garment(mask)
    assert shape.sleeve == 0 and shape.length == pytest.approx(160 / (0.85 * 70), rel=0.05)
    with pytest.raises(StableVITONError, match="mask is empty"):
        measure_garment(np.zeros((9, 9), bool))


def make_person() -> PersonInputs:
    """Somebody in a sleeveless top, arms stretched out, by a real parse."""
    xs = {"shoulder": (110, 190), "elbow": (60, 240), "wrist": (10, 290), "hip": (120, 180)}
    points = {"neck": (150, 60)}
    for joint, (right, left) in xs.items():
        y = 168 if joint == "hip" else 60
        points |= {f"right_{joint}": (right, y), f"left_{joint}": (left, y)}
    pose = Pose(np.array([points.get(name, (np.nan, np.nan)) for name in COCO_18], float))
    parse = np.zeros((300, 300), np.uint8)
    parse[60:168, 110:190] = CIHP.index("upper")
    parse[50:70, 0:110] = CIHP.index("right_arm")
    parse[50:70, 190:300] = CIHP.index("left_arm")
    parse[168:, 110:190] = CIHP.index("left_leg")
    others = np.zeros(parse.shape, bool)
    return PersonInputs(pose, parse, "test", approximate=False, others=others)


def test_the_mask_has_room_for_the_new_garment():
    image = np.zeros((300, 300, 3), np.uint8)

    def mask(**options) -> np.ndarray:
        return make_agnostic_mask(image, make_person(), MaskOptions(**options))[0]

    new = {"sleeves": "as the new garment"}
    none = mask(**new, new_garment=GarmentShape(0.0, 1.0))
    worn = mask(sleeves="as worn")
    assert (none & worn).sum() / (none | worn).sum() > 0.97
    half = mask(**new, new_garment=GarmentShape(0.25, 1.0))
    assert half[60, 90] and half[60, 210] and not half[60, 70] and not half[60, 230]
    whole = mask(**new, new_garment=GarmentShape(1.0, 1.0))
    assert np.array_equal(whole, mask(sleeves="long"))
    with pytest.raises(StableVITONError, match="the garment's mask is missing"):
        mask(**new)
