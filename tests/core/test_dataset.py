"""The VITON-HD layout: reading pairs, and listing problems before a run."""

import shutil

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from helpers.golden import fill, make_pixel_files, read_golden
from helpers.training import HEIGHT, WIDTH, tiny_config
from stableviton_core.dataset.check_data import check_data
from stableviton_core.dataset.pairs import format_result_name, read_pairs
from stableviton_core.dataset.samples import load_sample, load_target_image, pad_to_aspect
from stableviton_core.errors import StableVITONError
from stableviton_core.image_tensors import pad_garment, resize_keep_mask
from stableviton_core.images import write_image
from stableviton_core.synthetic.write_dataset import (
    TEST_SEED_OFFSET,
    generate_samples,
    write_dataset,
)
from stableviton_core.training.trainer import train


@pytest.fixture
def data(tmp_path):
    write_dataset(tmp_path / "data", 3, 2, 2, HEIGHT, seed=0)
    return tmp_path / "data"


def test_synthetic_samples_are_a_data_set_without_problems(data):
    problems, counts = check_data(data)
    assert problems == []
    assert "train: 6 pairs, 6 with a garment mask, 6 with a warped" in counts
    assert "test: 2 pairs" in counts


def test_the_files_are_the_synthetic_samples(data):
    pair = read_pairs(data, "train", paired=True)[3]
    assert pair.name == "00001_01+00001_01"
    loaded = load_sample(pair, HEIGHT, WIDTH)
    expected = list(generate_samples(3, 2, HEIGHT, seed=0))[1][1]
    images = {
        "image": expected.image,
        "agnostic": expected.agnostic,
        "mask": expected.mask,
        "densepose": expected.densepose,
        "garment": expected.garment,
        "warped_mask": expected.warped_mask,
    }
    for name, image in images.items():
        assert np.array_equal(getattr(loaded, name), image), name


def test_a_test_pair_has_the_other_garment_and_its_ground_truth(data):
    pair = read_pairs(data, "test", paired=False)[1]
    person, target = list(generate_samples(2, 2, HEIGHT, seed=TEST_SEED_OFFSET))[1]
    sample = load_sample(pair, HEIGHT, WIDTH)
    assert np.array_equal(sample.image, person.image)
    assert np.array_equal(sample.garment, target.garment)
    assert np.array_equal(load_target_image(pair, HEIGHT, WIDTH), target.image)


def test_images_come_at_the_requested_size(data):
    pair = read_pairs(data, "train", paired=True)[0]
    sample = load_sample(pair, 32, 24)
    assert sample.image.shape == (32, 24, 3) and sample.mask.shape == (32, 24)
    with pytest.raises(StableVITONError, match="image size is 24 x 30 .*multiples of 8"):
        load_sample(pair, 30, 24)


@pytest.mark.parametrize("size", ["512x384", "256x192", "640x480"])
def test_pixels_are_the_authors(tmp_path, size):
    height, width = map(int, size.split("x"))
    files = make_pixel_files()
    folders = {"person": "image", "mask": "agnostic-mask", "densepose": "image-densepose"}
    for name in ("agnostic-v3.2", "cloth"):
        write_image(tmp_path / "test" / name / "a.png", files["person"])
    for name, folder in folders.items():
        write_image(tmp_path / "test" / folder / "a.png", files[name])
    (tmp_path / "test_pairs.txt").write_text("a.png a.png\n")
    sample = load_sample(read_pairs(tmp_path, "test", paired=True)[0], height, width)
    golden = read_golden("pixel_path")
    for name, image in (("person", sample.image), ("densepose", sample.densepose)):
        signed = torch.from_numpy(image).float() / 127.5 - 1
        assert torch.allclose(signed[::16, ::16], golden[f"{name}/{size}"], atol=1e-6, rtol=0)
    keep = 1 - torch.from_numpy(sample.mask).float() / 255
    assert (keep[::4, ::4] - golden[f"keep/{size}"]).abs().max() <= 1e-6
    latent = resize_keep_mask(keep[None, None], (height // 8, width // 8))[0, 0]
    assert (latent - golden[f"keep_latent/{size}"]).abs().max() <= 1e-6


def test_training_pairs_are_paired_whatever_the_file_says(data):
    (data / "train_pairs.txt").write_text("00000_00.png 00001_00.png\n\n00001_00.png 00000_00.png")
    pairs = read_pairs(data, "train", paired=True)
    assert [pair.garment for pair in pairs] == ["00000_00.png", "00001_00.png"]
    assert [pair.garment for pair in read_pairs(data, "train", paired=False)] == [
        "00001_00.png",
        "00000_00.png",
    ]


def test_other_spellings_and_types_are_found(data):
    before = load_sample(read_pairs(data, "train", paired=True)[0], HEIGHT, WIDTH)
    (data / "train" / "cloth-mask").rename(data / "train" / "cloth_mask")
    (data / "train" / "agnostic-mask").rename(data / "train" / "agnostic_mask")
    (data / "train_pairs.txt").write_text("00000_00.jpg 00000_00.jpg\n")  # the files are .png
    (pair,) = read_pairs(data, "train", paired=True)
    assert np.array_equal(load_sample(pair, HEIGHT, WIDTH).mask, before.mask)
    masks = data / "train" / "agnostic_mask"
    (masks / "00000_00_mask.png").rename(masks / "00000_00.png")  # as ComfyUI saves it
    (pair,) = read_pairs(data, "train", paired=True)
    assert np.array_equal(load_sample(pair, HEIGHT, WIDTH).mask, before.mask)
    assert "1 pairs, 1 with a garment mask" in check_data(data, ["train"])[1]


def test_everything_wrong_is_in_one_list(data):
    train = data / "train"
    (train / "cloth" / "00000_00.png").unlink()
    (train / "image" / "00000_01.png").write_bytes(b"no image")
    Image.new("RGB", (30, 20)).save(train / "image-densepose" / "00001_00.png")
    Image.new("L", (WIDTH, HEIGHT)).save(train / "agnostic-mask" / "00001_01_mask.png")
    shutil.rmtree(train / "gt_cloth_warped_mask")
    problems, counts = check_data(data)
    text = "\n".join(problems)
    assert len(problems) == 5
    assert "image-densepose/00001_00.png is black" in text
    assert "00000_00.png is missing" in text
    assert "00000_01.png cannot be read as an image" in text
    assert f"densepose is 30 x 20, the image {WIDTH} x {HEIGHT}" in text
    assert "00001_01_mask.png is empty: there is nothing to generate" in text
    assert "6 pairs, 6 with a garment mask, 0 with a warped" in counts and "5 problems" in counts


def test_a_split_that_is_not_there_is_one_problem(data):
    (data / "test_pairs.txt").unlink()
    problems, counts = check_data(data)
    assert len(problems) == 1 and "test_pairs.txt is not there" in problems[0]
    assert "train: 6 pairs" in counts


def test_a_garment_of_nobody_has_no_target(data):
    (data / "test" / "image" / "00000_01.png").unlink()
    pair = read_pairs(data, "test", paired=False)[0]
    assert load_target_image(pair, HEIGHT, WIDTH) is None


def test_training_lists_missing_files(data, tmp_path):
    (data / "train" / "cloth" / "00000_00.png").unlink()
    config = tiny_config(tmp_path, tmp_path / "run", data=data)
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
def test_an_invalid_data_set_is_an_error(data, change, message):
    change(data)
    with pytest.raises(StableVITONError, match=message):
        read_pairs(data, "train", paired=True)


@pytest.mark.parametrize(("height", "width"), [(80, 48), (64, 96), (64, 48), (63, 50)])
def test_a_padded_garment_is_that_of_the_nodes(height, width):
    garment = (fill("garment", (height, width, 3)) * 60 + 128).clamp(0, 255).to(torch.uint8)
    padded = pad_to_aspect(garment.numpy(), HEIGHT, WIDTH)
    assert abs(padded.shape[1] * HEIGHT / padded.shape[0] - WIDTH) <= 1
    signed = garment.permute(2, 0, 1)[None].float() / 127.5 - 1
    expected = pad_garment(signed, HEIGHT, WIDTH)
    resized = cv2.resize(padded.astype(np.float32), (WIDTH, HEIGHT)) / 127.5 - 1
    assert np.allclose(resized, expected[0].permute(1, 2, 0), atol=1e-4)


def test_results_have_the_names_of_the_released_script(data):
    pair = read_pairs(data, "test", paired=False)[1]
    assert format_result_name(pair, ".jpg") == "00001_00_00001_01.jpg"


def test_other_garments_than_uppers_are_refused(data):
    assert read_pairs(data, "test", paired=False, category="upper")
    with pytest.raises(StableVITONError, match="has upper garments only, not 'lower'"):
        read_pairs(data, "test", paired=False, category="lower")
    with pytest.raises(StableVITONError, match="upper, lower, dresses, got 'shoes'"):
        read_pairs(data, "test", paired=False, category="shoes")


def test_a_data_set_is_written_into_a_new_folder_only(data):
    with pytest.raises(StableVITONError, match="is not empty"):
        write_dataset(data, 1, 1, 1, HEIGHT, seed=0)
    with pytest.raises(StableVITONError, match="multiple of 32 .* got 100"):
        write_dataset(data / "new", 1, 1, 1, 100, seed=0)
    with pytest.raises(StableVITONError, match="plain, .*patchwork; got plaid"):
        write_dataset(data / "new", 1, 1, 1, HEIGHT, seed=0, patterns=["plaid", "plain"])
