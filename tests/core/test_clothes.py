"""Labels of worn clothes without a parsing network, and the persons they are of."""

import cv2
import numpy as np
import pytest

from stableviton_core.images import read_image
from stableviton_core.person import bodies, clothes
from stableviton_core.person.agnostic import MaskOptions, PersonInputs, make_agnostic_mask
from stableviton_core.person.analysis import analyze_person, find_body
from stableviton_core.person.blazepose import Detection
from stableviton_core.person.bodies import MIRRORED, find_bodies
from stableviton_core.person.labels import select_labels
from stableviton_core.person.pose import Pose
from stableviton_core.serving.install import PACK
from stableviton_core.synthetic.draw_garment import Garment, generate_garment
from stableviton_core.synthetic.draw_person import compute_pose, generate_person
from stableviton_core.synthetic.renderer import SyntheticSample, render_sample

HOPPER = PACK / "tests" / "golden" / "person" / "grace_hopper.jpg"


@pytest.fixture(scope="module")
def hopper() -> np.ndarray:
    return read_image(HOPPER)


def mirror(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[:, ::-1])


def measure_iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def draw_samples(count: int) -> list[tuple[Garment, SyntheticSample, Pose]]:
    rng = np.random.default_rng(11)
    samples = []
    for _ in range(count):
        person, garment = (
            generate_person(rng),
            generate_garment(rng, ("plain", "stripes", "letter")),
        )
        sample = render_sample(person, garment, 512)
        pose = compute_pose(person, 512).within(*sample.parse.shape)
        samples.append((garment, sample, pose))
    return samples


def test_drawn_persons_get_the_labels_they_were_drawn_with():
    covered, tops, bare, others = [], [], [], []
    for garment, sample, pose in draw_samples(6):
        parse = analyze_person(sample.image, pose).parse
        true, top = (select_labels(labels, "upper") for labels in (sample.parse, parse))
        covered.append(top[true].mean())
        tops.append(measure_iou(true, top))
        if not garment.long_sleeves:
            bare.append(top[select_labels(sample.parse, "left_arm", "right_arm")].mean())
        others.append(top[select_labels(sample.parse, "pants", "hair", "face")].mean())
    assert len(bare) >= 2
    assert np.mean(covered) > 0.97 and np.mean(tops) > 0.9
    assert max(bare) < 0.1, "sleeves are as long as drawn"
    assert max(others) < 0.05


def test_the_mask_as_worn_is_the_garment_with_a_margin():
    for _, sample, pose in draw_samples(3):
        true = select_labels(sample.parse, "upper")
        mask, _ = make_agnostic_mask(
            sample.image, PersonInputs(pose=pose), MaskOptions(sleeves="as worn")
        )
        assert mask[true].mean() > 0.97
        assert mask.sum() < 1.7 * true.sum()


def test_a_category_takes_what_may_be_both():
    _, sample, pose = draw_samples(1)[0]
    parses = {c: analyze_person(sample.image, pose, category=c).parse for c in ("lower", "dress")}
    assert select_labels(parses["lower"], "pants").sum() > 0
    assert not select_labels(parses["dress"], "upper", "pants").any()
    true = select_labels(sample.parse, "upper", "pants")
    assert select_labels(parses["dress"], "dress")[true].mean() > 0.95


def test_the_parse_of_a_photo(hopper):
    height, width = hopper.shape[:2]
    parse = analyze_person(hopper).parse
    jacket = np.zeros((height, width), np.uint8)
    corners = np.array(
        [(12, 66), (36, 56), (42, 66), (50, 70), (60, 66), (66, 56), (94, 66), (97, 99), (5, 99)]
    )
    cv2.fillPoly(jacket, [(corners * (width, height) / 100).astype(np.int32)], 1)
    assert select_labels(parse, "upper")[jacket > 0].mean() > 0.97
    assert parse[int(0.4 * height), width // 2] == clothes.CIHP.index("face")
    assert parse[int(0.12 * height), width // 2] == clothes.CIHP.index("hair"), "the hat"
    assert not select_labels(parse, "upper", "pants")[: int(0.45 * height)].any()


@pytest.mark.parametrize(
    "change",
    [
        mirror,
        lambda photo: cv2.resize(photo, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
        lambda photo: cv2.resize(photo, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC),
        lambda photo: cv2.cvtColor(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB),
        lambda photo: cv2.imdecode(cv2.imencode(".jpg", photo, [1, 60])[1], cv2.IMREAD_COLOR),
    ],
    ids=["mirrored", "half the size", "four times the size", "grey", "compressed"],
)
def test_the_same_photo_has_the_same_mask(hopper, change):
    mask, _ = make_agnostic_mask(hopper, PersonInputs(), MaskOptions())
    other, _ = make_agnostic_mask(change(hopper), PersonInputs(), MaskOptions())
    if change is mirror:
        other = mirror(other)
    size = mask.shape[::-1]
    other = cv2.resize(other.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
    assert measure_iou(mask, other) >= 0.95


def test_a_mirrored_person_is_the_mirror_image(hopper):
    (body,), (other,) = find_bodies(hopper), find_bodies(mirror(hopper))
    points = other.points[list(MIRRORED)]
    points[:, 0] = hopper.shape[1] - 1 - points[:, 0]
    assert np.abs(points - body.points).max() < 0.5
    assert measure_iou(mirror(other.mask) > 0.5, body.mask > 0.5) > 0.999


def test_landmarks_change_places_in_pairs():
    assert sorted(MIRRORED) == list(range(33))
    assert [MIRRORED[index] for index in MIRRORED] == list(range(33))


def test_joints_that_disagree_are_not_averaged(monkeypatch):
    """A joint that is left in one image and right in the other is one of both, not between."""
    image = np.zeros((100, 100, 3), np.uint8)
    detection = Detection(np.array([50.0, 50.0]), np.array([50.0, 0.0]))
    seen = iter([(30.0, 0.9), (99.0 - 70.0, 0.5)])

    def estimate(_: np.ndarray, __: Detection) -> bodies.Body:
        x, visibility = next(seen)
        points = np.tile([x, 40.0], (33, 1))
        return bodies.Body(points, np.full(33, visibility), np.zeros((100, 100), np.float32), 1.0)

    monkeypatch.setattr(bodies, "estimate_body", estimate)
    body = bodies._estimate_body(image, detection)
    assert (body.points[:, 0] == 30).all(), "the more visible one"


def test_a_person_without_a_head_is_found_by_the_pose(hopper):
    whole = find_bodies(hopper)[0]
    top = 330
    pose = Pose(whole.to_pose().points - (0, top))
    body, others = find_body(hopper[top:], pose)
    assert measure_iou(body.mask > 0.5, whole.mask[top:] > 0.5) > 0.85
    assert not others.any()
    assert np.allclose(body.to_pose()["left_shoulder"], pose["left_shoulder"])
