"""Agnostic masks."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stableviton_core import synthetic
from stableviton_core.errors import StableVITONError
from stableviton_core.person.agnostic import densepose_mask, hands, parse_pose_mask, viton_hd_mask
from stableviton_core.person.densepose import decode_parts
from stableviton_core.person.labels import region
from stableviton_core.person.pose import COCO_18, Pose, pose_from_points

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "agnostic"
CASES = ("plain", "arm_up", "crossed", "narrow_missing_wrist")


def case(name: str) -> tuple[np.ndarray, Pose, np.ndarray]:
    parse, mask = (np.array(Image.open(GOLDEN / f"{name}_{k}.png")) for k in ("parse", "mask"))
    points = json.loads((GOLDEN / f"{name}_pose.json").read_text())["keypoints_body25"]
    return parse, pose_from_points(points), mask > 127


@pytest.mark.parametrize("name", CASES)
def test_the_viton_hd_rule_is_the_authors(name):
    parse, pose, expected = case(name)
    before = pose.points.copy()
    mask = viton_hd_mask(parse, pose)
    assert (mask & expected).sum() / (mask | expected).sum() >= 0.995
    assert np.array_equal(pose.points, before, equal_nan=True), "it changed its input"


def without(pose: Pose, *names: str) -> Pose:
    points = pose.points.copy()
    points[[COCO_18.index(name) for name in names]] = np.nan
    return Pose(points)


@pytest.mark.parametrize("missing", [("right_hip",), ("left_hip", "right_hip"), ("neck",)])
def test_missing_joints_leave_a_whole_mask(missing):
    parse, pose, expected = case("plain")
    mask = viton_hd_mask(parse, without(pose, *missing))
    assert mask[region(parse, "upper")].mean() >= 0.99
    assert not mask[region(parse, "face")].any()
    assert (mask & expected).sum() / (mask | expected).sum() > 0.9


def test_without_a_shoulder_the_rule_says_so():
    parse, pose, _ = case("plain")
    with pytest.raises(StableVITONError, match="the pose lacks one"):
        viton_hd_mask(parse, without(pose, "left_shoulder"))


def people(count: int, height: int = 256):
    """Dolls with their own pose."""
    rng = np.random.default_rng(11)
    for _ in range(count):
        person, garment = synthetic.random_person(rng), synthetic.random_garment(rng)
        yield synthetic.draw(person, garment, height), synthetic.pose_of(person, height)


def test_parse_and_pose_cover_the_garment_and_nothing_that_is_kept():
    """Arms and hands by the dolls' own DensePose, of which the rule knows nothing."""
    covered, bare_covered, hands_hit = [], [], []
    for doll, pose in people(200):
        mask = parse_pose_mask(doll.parse, pose.within(*doll.parse.shape))
        parts = decode_parts(doll.densepose)
        arms = region(doll.parse, "left_arm", "right_arm")
        bare, hand = arms & (parts >= 15) & (parts <= 22), arms & np.isin(parts, (3, 4))
        covered.append(mask[region(doll.parse, "upper")].mean())
        bare_covered.append(mask[bare].mean() if bare.sum() > 50 else 1.0)
        hands_hit.append(mask[hand].mean() if hand.sum() > 20 else 0.0)
        assert not mask[region(doll.parse, "face", "hair", "pants")].any()
    assert min(covered) >= 0.99 and np.mean(bare_covered) >= 0.97
    assert np.mean(hands_hit) <= 0.02


def test_strokes_find_arms_that_have_no_label():
    doll, pose = next(people(1))
    blind = np.where(region(doll.parse, "left_arm", "right_arm", "upper"), 0, doll.parse)
    mask = parse_pose_mask(blind, pose)
    arms = np.isin(decode_parts(doll.densepose), (15, 16, 19, 20))
    assert mask[arms].mean() > 0.95


def test_only_the_chosen_person_is_masked():
    (one, pose), (other, _) = people(2)
    both = np.concatenate([one.parse, other.parse], axis=1)
    width = one.parse.shape[1]
    outline = np.zeros(both.shape, bool)
    outline[:, :width] = one.parse > 0
    mask = parse_pose_mask(both, pose, person=outline)
    assert mask[:, :width][region(one.parse, "upper")].mean() >= 0.99
    assert mask[:, width + 60 :].mean() == 0


def test_a_hand_without_a_wrist_is_kept():
    doll, pose = next((d, p) for d, p in people(60) if region(d.parse, "left_arm").sum() > 300)
    mask = parse_pose_mask(doll.parse, without(pose, "left_wrist", "right_wrist"))
    hand = np.isin(decode_parts(doll.densepose), (3, 4)) & region(doll.parse, "left_arm")
    assert hand.sum() > 20 and mask[hand].mean() < 0.1
    with pytest.raises(StableVITONError, match="one of long, short, as worn, got 'none'"):
        parse_pose_mask(doll.parse, pose, sleeves="none")


def test_hands_are_where_the_dolls_have_them():
    shares = []
    for doll, pose in people(60):
        true = np.isin(decode_parts(doll.densepose), (3, 4))
        found = hands(doll.parse, pose)
        if true.sum() > 20:
            shares.append(found[true].mean())
    assert np.mean(shares) > 0.97


def test_missing_joints_and_other_sizes_still_give_a_mask():
    rng = np.random.default_rng(3)
    for index, (doll, pose) in enumerate(people(40, height=260)):  # 195 wide, not in eights
        lost = rng.choice(["left_wrist", "right_elbow", "left_hip", "neck"], 2, replace=False)
        mask = parse_pose_mask(doll.parse, without(pose, *lost))
        assert mask.shape == doll.parse.shape
        assert mask[region(doll.parse, "upper")].mean() >= 0.99, index


def test_options_do_what_they_say():
    doll, pose = next((d, p) for d, p in people(40) if region(d.parse, "left_arm").sum() > 300)
    long = parse_pose_mask(doll.parse, pose)
    short = parse_pose_mask(doll.parse, pose, sleeves="short")
    worn = parse_pose_mask(doll.parse, pose, sleeves="as worn")
    assert (long & ~short).any() and (short & ~worn).any()
    assert not (worn & ~short).any() and not (short & ~long).any()
    all_of_it = parse_pose_mask(doll.parse, pose, keep_hands=False)
    assert all_of_it[hands(doll.parse, pose)].all()
    lower = parse_pose_mask(doll.parse, pose, category="lower")
    assert lower[region(doll.parse, "pants")].all()
    assert not lower[region(doll.parse, "upper", "face")].any()


def test_densepose_alone_covers_the_garment_but_for_its_hem():
    covered, faces = [], []
    for doll, _ in people(60):
        mask = densepose_mask(decode_parts(doll.densepose))
        covered.append(mask[region(doll.parse, "upper")].mean())
        faces.append(mask[region(doll.parse, "face")].mean())
    assert np.mean(covered) > 0.88 and max(faces) == 0, "the hem lies over the legs"
