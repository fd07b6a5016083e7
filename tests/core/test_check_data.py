"""What check-data finds in a data set, and what it does not mistake for a problem."""

import os
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from helpers.limits import require_limits
from helpers.png import make_png
from helpers.training import HEIGHT
from stableviton_core.dataset.check_data import check_data, measure_visible_share
from stableviton_core.images import read_image, write_image
from stableviton_core.person.densepose import VIRIDIS_ON_BLACK, decode_parts
from stableviton_core.synthetic.write_dataset import write_dataset

SIZE = 4 * HEIGHT  # large enough for what compression does


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "data"
    write_dataset(folder, 2, 1, 1, SIZE, seed=0)
    return folder


@pytest.fixture
def data(original, tmp_path):
    return shutil.copytree(original, tmp_path / "data")


def list_train_problems(data) -> list[str]:
    return check_data(data, ["train"])[0]


def test_strong_compression_is_no_problem(data):
    for folder in ("image", "agnostic-v3.2", "image-densepose", "cloth"):
        for file in list((data / "train" / folder).iterdir()):
            Image.open(file).convert("RGB").save(file.with_suffix(".jpg"), quality=75)
            file.unlink()
    assert list_train_problems(data) == []


def change_image(data, folder, change, name="00000_00.png"):
    file = data / "train" / folder / name
    write_image(file, change(read_image(file)))


def paint_viridis(image):
    return VIRIDIS_ON_BLACK[decode_parts(image)]


@pytest.mark.parametrize(
    ("folder", "change", "message"),
    [
        ("image-densepose", np.zeros_like, "is black: it shows no person"),
        ("image-densepose", paint_viridis, "no DensePose image in VITON-HD's colours"),
        ("image-densepose", lambda image: image[..., ::-1].copy(), "no DensePose image in VITON"),
        ("image", lambda image: image[:-40].copy(), "the image 192 x 216"),
    ],
)
def test_a_wrong_image_is_found(data, folder, change, message):
    change_image(data, folder, change)
    problems = list_train_problems(data)
    assert any(message in problem and "00000_00" in problem for problem in problems), problems
    assert not any("00001_00" in problem for problem in problems)


@pytest.mark.parametrize(("level", "message"), [(255, "is all white"), (0, "is empty")])
def test_a_mask_without_an_edge_is_found(data, level, message):
    file = "00000_00_mask.png"
    change_image(data, "agnostic-mask", lambda image: np.full_like(image, level), file)
    assert any(message in problem for problem in list_train_problems(data))


def test_an_agnostic_image_with_the_garment_is_found(data):
    train = data / "train"
    shutil.copy(train / "image/00000_00.png", train / "agnostic-v3.2/00000_00.png")
    (problem,) = list_train_problems(data)
    assert "00000_00.png still shows" in problem and "It is grey 128 there" in problem


def test_the_visible_share_is_counted_away_from_the_edge():
    mask = np.zeros((80, 60), np.uint8)
    mask[20:60, 10:50] = 255  # 40 x 40, of which 24 x 24 are 8 or more pixels from the edge
    agnostic = np.full((80, 60, 3), 128, np.uint8)
    agnostic[20:28, 10:50] = 255  # at the edge
    assert measure_visible_share(agnostic, mask) == 0
    agnostic[28:34, 18:42] = 255  # 6 of the 24 rows
    assert measure_visible_share(agnostic, mask) == pytest.approx(0.25)


def test_a_rotation_in_exif_is_found(data):
    file = data / "train" / "image" / "00000_00.png"
    image = Image.open(file)
    exif = image.getexif()
    exif[0x0112] = 6
    image.rotate(90, expand=True).save(file.with_suffix(".jpg"), exif=exif, quality=95)
    file.unlink()
    (problem,) = list_train_problems(data)
    assert "is rotated by its EXIF orientation 6" in problem


def test_an_ending_in_capital_letters_is_read_and_reported(data):
    for folder in ("image", "cloth"):
        file = data / "train" / folder / "00000_00.png"
        file.rename(file.with_suffix(".PNG"))
    problems = list_train_problems(data)
    assert len(problems) == 2 and all("Give both one ending" in problem for problem in problems)


def test_duplicates_and_other_encodings_are_found(data):
    pairs = data / "train_pairs.txt"
    pairs.write_text(pairs.read_text() * 3)
    assert list_train_problems(data)[0] == "00000_00+00000_00 is there 3 times"
    pairs.write_bytes("jacke_grün.png jacke_grün.png\n".encode("latin-1"))
    (problem,) = list_train_problems(data)
    assert "not a text file in UTF-8" in problem


def test_what_is_no_file_or_takes_all_memory_is_found(data):
    """A loop of links, a pipe, and an image of four gigapixels in a few bytes."""
    loop, pipe = sorted((data / "train" / "image").iterdir())[:2]
    bomb = min((data / "train" / "cloth").iterdir())
    for file in (loop, pipe):
        file.unlink()
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    bomb.write_bytes(make_png(65_535, 65_535, rows=0))
    with require_limits():
        problems, _ = check_data(data, ("train",))
    text = "\n".join(problems)
    assert f"{loop} is missing" in text and f"{pipe} cannot be read" in text
    assert "4295 megapixels; at most 200 are read" in text


def test_a_folder_that_is_a_loop_is_found(data):
    folder = data / "train" / "image"
    shutil.rmtree(folder)
    folder.symlink_to(folder)
    problems, _ = check_data(data, ("train",))
    assert f"{folder}" in problems[0] and "is missing" in problems[0]


def test_a_resized_mask_has_another_size(data):
    change_image(
        data, "agnostic-mask", lambda image: cv2.resize(image, (96, 128)), "00000_00_mask.png"
    )
    (problem,) = list_train_problems(data)
    assert "mask is 96 x 128, the image 192 x 256" in problem
