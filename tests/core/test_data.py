"""The VITON-HD layout: reading pairs, and finding what is wrong before a run."""

import shutil

import numpy as np
import pytest
from PIL import Image

from helpers.training import HEIGHT, WIDTH, tiny_config
from stableviton_core.errors import StableVITONError
from stableviton_core.synthetic.write_dataset import UNSEEN, random_samples, write_dataset
from stableviton_core.training.check_data import check_data
from stableviton_core.training.dataset import load, read_pairs, target_image
from stableviton_core.training.trainer import train


@pytest.fixture
def dolls(tmp_path):
    write_dataset(tmp_path / "dolls", 3, 2, 2, HEIGHT, seed=0)
    return tmp_path / "dolls"


def test_paper_dolls_are_a_data_set_without_problems(dolls):
    problems, counts = check_data(dolls)
    assert problems == []
    assert "train: 6 pairs, 6 with a garment mask, 6 with a warped" in counts
    assert "test: 2 pairs" in counts


def test_the_files_are_the_dolls(dolls):
    pair = read_pairs(dolls, "train", paired=True)[3]
    assert pair.name == "00001_01+00001_01"
    sample = load(pair, HEIGHT, WIDTH)
    drawn = list(random_samples(3, 2, HEIGHT, seed=0))[1][1]
    pictures = {
        "image": drawn.image,
        "agnostic": drawn.agnostic,
        "mask": drawn.mask,
        "densepose": drawn.densepose,
        "garment": drawn.garment,
        "warped": drawn.worn,
    }
    for name, picture in pictures.items():
        assert np.array_equal(getattr(sample, name), picture), name


def test_a_test_pair_asks_for_the_other_garment_and_has_its_truth(dolls):
    pair = read_pairs(dolls, "test", paired=False)[1]
    worn, asked = list(random_samples(2, 2, HEIGHT, seed=UNSEEN))[1]
    sample = load(pair, HEIGHT, WIDTH)
    assert np.array_equal(sample.image, worn.image)
    assert np.array_equal(sample.garment, asked.garment)
    assert np.array_equal(target_image(pair, HEIGHT, WIDTH), asked.image)


def test_pictures_come_at_the_wanted_size(dolls):
    pair = read_pairs(dolls, "train", paired=True)[0]
    sample = load(pair, 32, 24)
    assert sample.image.shape == (32, 24, 3) and sample.mask.shape == (32, 24)
    assert set(np.unique(sample.mask)) <= {0, 255}
    with pytest.raises(StableVITONError, match="multiples of 8, got 24 x 30"):
        load(pair, 30, 24)


def test_training_pairs_are_paired_whatever_the_file_says(dolls):
    (dolls / "train_pairs.txt").write_text("00000_00.png 00001_00.png\n\n00001_00.png 00000_00.png")
    pairs = read_pairs(dolls, "train", paired=True)
    assert [pair.garment for pair in pairs] == ["00000_00.png", "00001_00.png"]
    assert [pair.garment for pair in read_pairs(dolls, "train", paired=False)] == [
        "00001_00.png",
        "00000_00.png",
    ]


def test_other_spellings_and_types_are_found(dolls):
    before = load(read_pairs(dolls, "train", paired=True)[0], HEIGHT, WIDTH)
    (dolls / "train" / "cloth-mask").rename(dolls / "train" / "cloth_mask")
    (dolls / "train" / "agnostic-mask").rename(dolls / "train" / "agnostic_mask")
    (dolls / "train_pairs.txt").write_text("00000_00.jpg 00000_00.jpg\n")  # the files are .png
    (pair,) = read_pairs(dolls, "train", paired=True)
    assert np.array_equal(load(pair, HEIGHT, WIDTH).mask, before.mask)
    masks = dolls / "train" / "agnostic_mask"
    (masks / "00000_00_mask.png").rename(masks / "00000_00.png")  # as ComfyUI saves it
    (pair,) = read_pairs(dolls, "train", paired=True)
    assert np.array_equal(load(pair, HEIGHT, WIDTH).mask, before.mask)
    assert "1 pairs, 1 with a garment mask" in check_data(dolls, ["train"])[1]


def test_everything_wrong_is_in_one_list(dolls):
    train = dolls / "train"
    (train / "cloth" / "00000_00.png").unlink()
    (train / "image" / "00000_01.png").write_bytes(b"no picture")
    Image.new("RGB", (30, 20)).save(train / "image-densepose" / "00001_00.png")
    Image.new("L", (WIDTH, HEIGHT)).save(train / "agnostic-mask" / "00001_01_mask.png")
    shutil.rmtree(train / "gt_cloth_warped_mask")
    problems, counts = check_data(dolls)
    text = "\n".join(problems)
    assert len(problems) == 4
    assert "00000_00.png is missing" in text
    assert "00000_01.png cannot be read as an image" in text
    assert f"densepose is 30 x 20, the image {WIDTH} x {HEIGHT}" in text
    assert "00001_01_mask.png is empty: there is nothing to generate" in text
    assert "6 pairs, 6 with a garment mask, 0 with a warped" in counts and "4 problems" in counts


def test_a_split_that_is_not_there_is_one_problem(dolls):
    (dolls / "test_pairs.txt").unlink()
    problems, counts = check_data(dolls)
    assert len(problems) == 1 and "test_pairs.txt is not there" in problems[0]
    assert "train: 6 pairs" in counts


def test_a_garment_of_nobody_has_no_target(dolls):
    (dolls / "test" / "image" / "00000_01.png").unlink()
    pair = read_pairs(dolls, "test", paired=False)[0]
    assert target_image(pair, HEIGHT, WIDTH) is None


def test_a_run_says_what_is_missing(dolls, tmp_path):
    (dolls / "train" / "cloth" / "00000_00.png").unlink()
    config = tiny_config(tmp_path, tmp_path / "run", data=dolls)
    with pytest.raises(StableVITONError, match="1 files are missing(.|\n)*check-data"):
        train(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: (d / "train_pairs.txt").unlink(), "train_pairs.txt is not there"),
        (lambda d: (d / "train_pairs.txt").write_text("one\n"), "line 1: expected"),
        (lambda d: (d / "train_pairs.txt").write_text("\n"), "names no pairs"),
        (lambda d: shutil.rmtree(d / "train"), "Expected the VITON-HD layout"),
    ],
)
def test_what_is_no_data_set_is_an_error(dolls, change, message):
    change(dolls)
    with pytest.raises(StableVITONError, match=message):
        read_pairs(dolls, "train", paired=True)


def test_dolls_are_written_into_a_new_folder_only(dolls):
    with pytest.raises(StableVITONError, match="is not empty"):
        write_dataset(dolls, 1, 1, 1, HEIGHT, seed=0)
    with pytest.raises(StableVITONError, match="multiple of 32 .* got 100"):
        write_dataset(dolls / "new", 1, 1, 1, 100, seed=0)
    with pytest.raises(StableVITONError, match="plain, .*patchwork; got plaid"):
        write_dataset(dolls / "new", 1, 1, 1, HEIGHT, seed=0, patterns=["plaid", "plain"])
