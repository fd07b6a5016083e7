"""The DressCode layout: which files belong to a pair, and the masks that are made of them."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from helpers.training import HEIGHT, WIDTH
from stableviton_core.dataset.check_data import check_data, require_files
from stableviton_core.dataset.dresscode import read_keypoints
from stableviton_core.dataset.pairs import read_pairs
from stableviton_core.dataset.samples import load_sample, load_target_image
from stableviton_core.errors import StableVITONError
from stableviton_core.images import write_image
from stableviton_core.person.agnostic import MaskOptions, PersonInputs, make_agnostic_mask
from stableviton_core.person.densepose import colour_parts, decode_parts
from stableviton_core.person.labels import ATR, CIHP
from stableviton_core.person.skeleton import approximate_parse
from stableviton_core.synthetic.write_dataset import generate_samples

# of COCO-18, on the 384 x 512 image of a drawn person
KEYPOINTS = {
    1: (192, 120), 2: (150, 128), 3: (130, 210), 4: (120, 280), 5: (234, 128), 6: (254, 210),
    7: (264, 280), 8: (165, 290), 11: (219, 290),
}  # fmt: skip
FOLDERS = ("upper_body", "lower_body", "dresses")


@pytest.fixture
def sample():
    return next(iter(generate_samples(1, 1, HEIGHT, seed=3)))[0]


def to_atr(parse: np.ndarray) -> np.ndarray:
    """CIHP ids -> ATR's, hands as arms."""
    names = {name: ATR.index(name) for name in ATR} | {"glove": ATR.index("left_arm")}
    table = [names.get(name, 0) for name in CIHP]
    return np.array(table, np.uint8)[parse]


@pytest.fixture
def data(tmp_path, sample):
    parts = decode_parts(sample.densepose)
    labels = to_atr(approximate_parse(parts))
    labels[(labels > 0) & (sample.mask > 0)] = ATR.index("upper")
    labels[HEIGHT // 2 :][parts[HEIGHT // 2 :] > 0] = ATR.index("pants")
    points = [[*KEYPOINTS.get(index, (0, 0)), 1.0, index] for index in range(18)]
    for folder in FOLDERS:
        root = tmp_path / folder
        for number in ("1", "2"):
            write_image(root / "images" / f"00000{number}_0.jpg", sample.image)
            write_image(root / "images" / f"00000{number}_1.jpg", sample.garment)
            half = cv2.resize(parts, (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_NEAREST)
            write_image(root / "dense" / f"00000{number}_5.png", half)
            write_image(root / "label_maps" / f"00000{number}_4.png", labels)
            keypoints = root / "keypoints" / f"00000{number}_2.json"
            keypoints.parent.mkdir(exist_ok=True)
            keypoints.write_text(json.dumps({"keypoints": points}))
        (root / "train_pairs.txt").write_text("000001_0.jpg\t000001_1.jpg\n")
        (root / "test_pairs_paired.txt").write_text("000001_0.jpg\t000001_1.jpg\n")
        (root / "test_pairs_unpaired.txt").write_text("000001_0.jpg\t000002_1.jpg\t0\n")
    return tmp_path


def test_pairs_are_those_of_the_categories(data):
    pairs = read_pairs(data, "test", paired=False)
    assert [pair.category for pair in pairs] == ["upper", "lower", "dresses"]
    assert {pair.name for pair in pairs} == {"000001_0+000002_1"}
    (lower,) = read_pairs(data, "test", paired=True, category="lower")
    assert lower.cloth == data / "lower_body" / "images" / "000001_1.jpg"
    assert lower.densepose == data / "lower_body" / "dense" / "000001_5.png"
    (train,) = read_pairs(data, "train", paired=True, category="dresses")
    assert train.garment == "000001_1.jpg"


def test_the_ground_truth_is_the_person_with_the_garment(data, sample):
    (pair,) = read_pairs(data, "test", paired=False, category="upper")
    person = np.full_like(sample.image, 200)
    write_image(data / "upper_body/images/000002_0.jpg", person)
    assert np.abs(load_target_image(pair, HEIGHT, WIDTH).astype(int) - 200).max() <= 1
    assert np.abs(load_sample(pair, HEIGHT, WIDTH).image.astype(int) - 200).max() > 50


@pytest.mark.parametrize(("category", "rule_category"), [("upper", "upper"), ("lower", "lower")])
def test_the_mask_is_that_of_the_rule(data, category, rule_category):
    (pair,) = read_pairs(data, "test", paired=True, category=category)
    sample = load_sample(pair, HEIGHT, WIDTH)
    parse = cv2.imread(str(pair.labels), cv2.IMREAD_GRAYSCALE)
    names = {index: CIHP.index(name) for index, name in enumerate(ATR)}
    person = PersonInputs(
        pose=read_keypoints(pair.keypoints, HEIGHT, WIDTH),
        parse=np.vectorize(names.get)(parse).astype(np.uint8),
        approximate=False,
        others=np.zeros((HEIGHT, WIDTH), bool),
    )
    options = MaskOptions("parse+pose", rule_category)
    expected, _ = make_agnostic_mask(sample.image, person, options)
    assert expected.any() and np.array_equal(sample.mask > 0, expected)
    assert (sample.agnostic[expected] == 128).all()
    assert np.array_equal(sample.agnostic[~expected], sample.image[~expected])


def test_masks_of_categories_differ(data):
    masks = {
        pair.category: load_sample(pair, HEIGHT, WIDTH).mask > 0
        for pair in read_pairs(data, "test", paired=True)
    }
    assert not np.array_equal(masks["upper"], masks["lower"])
    legs = masks["lower"][HEIGHT * 3 // 4 :]
    assert legs.any() and not masks["upper"][HEIGHT * 3 // 4 :].any()
    assert masks["dresses"][HEIGHT * 3 // 4 :][legs].all()


def test_part_indices_become_a_densepose_image(data, sample):
    (pair,) = read_pairs(data, "test", paired=True, category="upper")
    parts = decode_parts(sample.densepose)
    half = cv2.resize(parts, (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_NEAREST)
    loaded = load_sample(pair, HEIGHT // 2, WIDTH // 2).densepose
    assert np.array_equal(loaded, colour_parts(half))


def test_numbers_of_a_palette_count_and_not_its_colours(data):
    (pair,) = read_pairs(data, "test", paired=True, category="upper")
    before = load_sample(pair, HEIGHT, WIDTH)
    for file in (pair.densepose, pair.labels):
        image = Image.open(file)
        image.putpalette(list(range(255, -1, -1)) * 3)
        assert image.mode == "P"
        image.save(file)
    after = load_sample(pair, HEIGHT, WIDTH)
    assert np.array_equal(after.densepose, before.densepose)
    assert np.array_equal(after.mask, before.mask)
    write_image(pair.densepose, before.image)
    with pytest.raises(StableVITONError, match="holds no DensePose part indices"):
        load_sample(pair, HEIGHT, WIDTH)


@pytest.mark.parametrize("points", [[[1]] * 18, [[1, 2]] * 17, [[None, 2]] * 18])
def test_incomplete_keypoints_are_refused(tmp_path, points):
    file = tmp_path / "pose.json"
    file.write_text(json.dumps({"keypoints": points}))
    with pytest.raises(StableVITONError, match="holds no keypoints"):
        read_keypoints(file, 512, 384)


def test_keypoints_are_scaled_and_missing_ones_stay_missing(data):
    pose = read_keypoints(data / "dresses/keypoints/000001_2.json", 1024, 768)
    assert pose["right_shoulder"].tolist() == [300, 256]
    assert not pose.has("nose") and not pose.has("left_ankle")


def test_stored_masks_take_the_place_of_made_ones(data, sample):
    root = data / "upper_body"
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:20] = 255
    write_image(root / "agnostic-mask/000001_0_mask.png", mask)
    write_image(root / "agnostic-v3.2/000001_0.png", sample.agnostic)
    (pair,) = read_pairs(data, "test", paired=True, category="upper")
    assert np.array_equal(load_sample(pair, HEIGHT, WIDTH).mask, mask)


def test_a_complete_data_set_has_no_problems(data):
    problems, counts = check_data(data)
    assert problems == [] and "train: 3 pairs" in counts and "test: 3 pairs" in counts


def test_missing_and_wrong_files_are_named(data):
    (data / "upper_body/keypoints/000001_2.json").write_text("[]")
    (data / "lower_body/label_maps/000001_4.png").unlink()
    write_image(data / "dresses/label_maps/000001_4.png", np.full((8, 6), 18, np.uint8))
    text = "\n".join(check_data(data, ["train"])[0])
    assert "upper_body/keypoints/000001_2.json holds no keypoints" in text
    assert "lower_body/label_maps/000001_4.png is missing" in text
    assert "dresses/label_maps/000001_4.png: this is no label map" in text
    with pytest.raises(StableVITONError, match="label_maps/000001_4.png is missing"):
        require_files(read_pairs(data, "train", paired=True, category="lower"))


def test_a_category_that_is_not_there_is_named(data):
    (data / "dresses").rename(data / "elsewhere")
    assert len(read_pairs(data, "train", paired=True)) == 2
    with pytest.raises(StableVITONError, match="dresses/train_pairs.txt is not there"):
        read_pairs(data, "train", paired=True, category="dresses")
