"""Agnostic masks."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stableviton_core.errors import StableVITONError
from stableviton_core.person import agnostic
from stableviton_core.person.agnostic import (
    MaskOptions,
    PersonInputs,
    apply_densepose_rule,
    apply_parse_pose_rule,
    apply_viton_hd_rule,
    find_hands,
    make_agnostic_mask,
)
from stableviton_core.person.bodies import find_bodies
from stableviton_core.person.densepose import decode_parts
from stableviton_core.person.labels import select_labels
from stableviton_core.person.pose import COCO_18, Pose, pose_from_points
from stableviton_core.synthetic.draw_garment import generate_garment
from stableviton_core.synthetic.draw_person import compute_pose, generate_person
from stableviton_core.synthetic.renderer import render_sample

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "agnostic"
CASES = ("plain", "arm_up", "crossed", "narrow_missing_wrist")


def viton_hd_mask(parse: np.ndarray, pose: Pose) -> np.ndarray:
    return apply_viton_hd_rule(PersonInputs(pose, parse, approximate=False), MaskOptions())[0]


def parse_pose_mask(
    parse: np.ndarray, pose: Pose, others: np.ndarray | None = None, **options
) -> np.ndarray:
    inputs = PersonInputs(pose, parse, approximate=False, others=others)
    return apply_parse_pose_rule(inputs, MaskOptions(**options))[0]


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
    assert np.array_equal(pose.points, before, equal_nan=True), "the input was changed"


def without(pose: Pose, *names: str) -> Pose:
    points = pose.points.copy()
    points[[COCO_18.index(name) for name in names]] = np.nan
    return Pose(points)


@pytest.mark.parametrize("missing", [("right_hip",), ("left_hip", "right_hip"), ("neck",)])
def test_missing_joints_leave_a_whole_mask(missing):
    parse, pose, expected = case("plain")
    mask = viton_hd_mask(parse, without(pose, *missing))
    assert mask[select_labels(parse, "upper")].mean() >= 0.99
    assert not mask[select_labels(parse, "face")].any()
    assert (mask & expected).sum() / (mask | expected).sum() > 0.9


def test_without_a_shoulder_the_rule_says_so():
    parse, pose, _ = case("plain")
    with pytest.raises(StableVITONError, match="the pose lacks one"):
        viton_hd_mask(parse, without(pose, "left_shoulder"))


def people(count: int, height: int = 256):
    """Synthetic samples and their poses."""
    rng = np.random.default_rng(11)
    for _ in range(count):
        person, garment = generate_person(rng), generate_garment(rng)
        yield render_sample(person, garment, height), compute_pose(person, height)


def with_bare_left_arm(count: int):
    for sample, pose in people(count):
        if select_labels(sample.parse, "left_arm").sum() > 300:
            yield sample, pose


def test_parse_and_pose_cover_the_garment_and_nothing_that_is_kept():
    """Arms and hands by the samples' own DensePose, which the rule does not read."""
    covered, bare_covered, hands_hit = [], [], []
    for sample, pose in people(200):
        mask = parse_pose_mask(sample.parse, pose.within(*sample.parse.shape))
        parts = decode_parts(sample.densepose)
        arms = select_labels(sample.parse, "left_arm", "right_arm")
        bare, hand = arms & (parts >= 15) & (parts <= 22), arms & np.isin(parts, (3, 4))
        covered.append(mask[select_labels(sample.parse, "upper")].mean())
        bare_covered.append(mask[bare].mean() if bare.sum() > 50 else 1.0)
        hands_hit.append(mask[hand].mean() if hand.sum() > 20 else 0.0)
        assert not mask[select_labels(sample.parse, "face", "hair", "pants")].any()
    assert min(covered) >= 0.99 and np.mean(bare_covered) >= 0.97
    assert np.mean(hands_hit) <= 0.02


def test_strokes_find_arms_that_have_no_label():
    sample, pose = next(people(1))
    blind = np.where(select_labels(sample.parse, "left_arm", "right_arm", "upper"), 0, sample.parse)
    mask = parse_pose_mask(blind, pose)
    arms = np.isin(decode_parts(sample.densepose), (15, 16, 19, 20))
    assert mask[arms].mean() > 0.95


def test_only_the_chosen_person_is_masked():
    (one, pose), (other, _) = people(2)
    both = np.concatenate([one.parse, other.parse], axis=1)
    width = one.parse.shape[1]
    outline = np.zeros(both.shape, bool)
    outline[:, :width] = one.parse > 0
    mask = parse_pose_mask(both, pose, others=~outline)
    assert mask[:, :width][select_labels(one.parse, "upper")].mean() >= 0.99
    assert mask[:, width + 60 :].mean() == 0


def test_a_hand_without_a_wrist_is_kept():
    sample, pose = next(with_bare_left_arm(60))
    inputs = PersonInputs(
        without(pose, "left_wrist", "right_wrist"), sample.parse, approximate=False
    )
    mask, protected = apply_parse_pose_rule(inputs, MaskOptions())
    hand = np.isin(decode_parts(sample.densepose), (3, 4)) & select_labels(sample.parse, "left_arm")
    assert hand.sum() > 20 and mask[hand].mean() < 0.1
    assert protected[hand & ~mask].all(), "growing spares it too"
    with pytest.raises(StableVITONError, match="as the new garment, got 'none'"):
        make_agnostic_mask(
            sample.image, PersonInputs(pose, sample.parse), MaskOptions(sleeves="none")
        )


def test_hands_are_where_the_samples_have_them():
    shares = []
    for sample, pose in people(60):
        true = np.isin(decode_parts(sample.densepose), (3, 4))
        found = find_hands(sample.parse, pose)
        if true.sum() > 20:
            shares.append(found[true].mean())
    assert np.mean(shares) > 0.97


def test_missing_joints_and_other_sizes_still_give_a_mask():
    rng = np.random.default_rng(3)
    for index, (sample, pose) in enumerate(people(40, height=260)):  # 195 wide, not in eights
        lost = rng.choice(["left_wrist", "right_elbow", "left_hip", "neck"], 2, replace=False)
        mask = parse_pose_mask(sample.parse, without(pose, *lost))
        assert mask.shape == sample.parse.shape
        assert mask[select_labels(sample.parse, "upper")].mean() >= 0.99, index


def test_options_do_what_they_say():
    sample, pose = next(with_bare_left_arm(40))
    long = parse_pose_mask(sample.parse, pose)
    short = parse_pose_mask(sample.parse, pose, sleeves="short")
    worn = parse_pose_mask(sample.parse, pose, sleeves="as worn")
    assert (long & ~short).any() and (short & ~worn).any()
    assert not (worn & ~short).any() and not (short & ~long).any()
    all_of_it = parse_pose_mask(sample.parse, pose, keep_hands=False)
    assert all_of_it[find_hands(sample.parse, pose)].all()
    lower = parse_pose_mask(sample.parse, pose, category="lower")
    assert lower[select_labels(sample.parse, "pants")].all()
    assert not lower[select_labels(sample.parse, "upper", "face")].any()


def test_densepose_alone_covers_the_garment_but_for_its_hem():
    covered, faces = [], []
    for sample, _ in people(60):
        mask, _ = apply_densepose_rule(
            PersonInputs(parts=decode_parts(sample.densepose)), MaskOptions()
        )
        covered.append(mask[select_labels(sample.parse, "upper")].mean())
        faces.append(mask[select_labels(sample.parse, "face")].mean())
    assert np.mean(covered) > 0.88 and max(faces) == 0, "the hem lies over the legs"


@pytest.mark.parametrize("rule", agnostic.RULES)
def test_growing_spares_what_a_rule_protects(rule):
    sample, pose = next(people(1))
    inputs = PersonInputs(
        pose,
        sample.parse,
        "labels",
        approximate=False,
        parts=decode_parts(sample.densepose),
        others=np.zeros(sample.parse.shape, bool),
    )
    mask, protected = agnostic.RULES[rule].apply(inputs, MaskOptions(rule))
    grown, source = make_agnostic_mask(sample.image, inputs, MaskOptions(rule, grow=15))
    assert protected.any() and not (grown & protected).any()
    assert grown.sum() > mask.sum() and grown[mask & ~protected].all()
    assert source == f"{rule}, from {'DensePose image' if rule == 'densepose' else 'labels'}"


def test_persons_are_detected_once(monkeypatch):
    """With a label map of a parser, both the pose and the other persons' outlines are needed."""
    from skimage.data import astronaut

    image, calls = astronaut(), []
    monkeypatch.setattr(
        "stableviton_core.person.analysis.find_bodies",
        lambda image: calls.append(1) or find_bodies(image),
    )
    inputs = PersonInputs(parse=np.full(image.shape[:2], 5, np.uint8), approximate=False)
    mask, _ = make_agnostic_mask(image, inputs, MaskOptions())
    assert mask.any() and len(calls) == 1
