"""Agnostic masks."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stableviton_core.person.agnostic import viton_hd_mask
from stableviton_core.person.labels import ids
from stableviton_core.person.pose import COCO_18, Pose, PoseError, pose_from_points

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
    garment = np.isin(parse, ids("upper"))
    assert mask[garment].mean() >= 0.99
    assert not mask[np.isin(parse, ids("face"))].any()
    assert (mask & expected).sum() / (mask | expected).sum() > 0.9


def test_without_a_shoulder_the_rule_says_so():
    parse, pose, _ = case("plain")
    with pytest.raises(PoseError, match="the pose lacks one"):
        viton_hd_mask(parse, without(pose, "left_shoulder"))
