"""Photos into a data set."""

import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.checkpoints import write_checkpoint
from helpers.person_networks import write_segformer, write_torchscript
from helpers.training import TINY, tiny_config
from stableviton_core.__main__ import main
from stableviton_core.dataset.check_data import check_data
from stableviton_core.dataset.pairs import read_pairs
from stableviton_core.dataset.samples import load_sample
from stableviton_core.errors import StableVITONError
from stableviton_core.images import read_image, read_mask
from stableviton_core.person.analysis import NoPersonError, analyze_person
from stableviton_core.person.bodies import find_bodies
from stableviton_core.person.densepose import TORSO, decode_parts
from stableviton_core.person.labels import CIHP, decode_labels, select_labels
from stableviton_core.person.large_networks import load_segformer
from stableviton_core.person.pose import Pose
from stableviton_core.person.prepare import REPORT, prepare_dataset
from stableviton_core.person.prepare_config import SETTINGS, PrepareConfig, record_settings
from stableviton_core.person.prepare_photo import PersonNetworks, find_worn_garment, write_person
from stableviton_core.synthetic.draw_garment import generate_garment
from stableviton_core.synthetic.draw_person import generate_person
from stableviton_core.synthetic.renderer import render_sample
from stableviton_core.training.checkpointing import WEIGHTS
from stableviton_core.training.trainer import train

ROOT = Path(__file__).resolve().parents[2]
HOPPER = ROOT / "tests" / "golden" / "person" / "grace_hopper.jpg"


def astronaut() -> np.ndarray:
    from skimage.data import astronaut

    return astronaut()


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for name in ("persons", "garments"):
        (root / name).mkdir()
    image = Image.fromarray(astronaut())
    image.save(root / "persons" / "astronaut.jpg", quality=95)
    turned = image.rotate(90, expand=True)  # as a phone stores it
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    turned.save(root / "persons" / "phone.jpg", quality=95, exif=exif)
    (root / "persons" / "hopper.jpg").write_bytes(HOPPER.read_bytes())
    Image.new("RGB", (300, 400), "grey").save(root / "persons" / "wall.png")
    (root / "persons" / "broken.jpg").write_bytes(b"no image")
    sample = render_sample(
        generate_person(np.random.default_rng(0)), generate_garment(np.random.default_rng(1)), 256
    )
    Image.fromarray(sample.garment).save(root / "garments" / "shirt.png")
    Image.fromarray(sample.garment).save(root / "garments" / "hopper.png")
    return root


def configure(folders: Path, output: Path, **changes: object) -> PrepareConfig:
    config = PrepareConfig(output, folders / "persons", folders / "garments", height=256, width=192)
    return replace(config, **changes)


def read_all(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_photos_become_a_data_set(folders, tmp_path):
    output = tmp_path / "data"
    report = prepare_dataset(configure(folders, output))
    assert report.persons == ["astronaut.png", "hopper.png", "phone.png"]
    assert report.garments == ["hopper.png", "shirt.png"]
    reasons = (output / REPORT).read_text()
    assert "wall.png: nobody was found" in reasons and "broken.jpg: cannot be read" in reasons
    assert (output / "test_pairs.txt").read_text().splitlines() == [
        "astronaut.png hopper.png",
        "astronaut.png shirt.png",
        "hopper.png hopper.png",
        "phone.png hopper.png",
        "phone.png shirt.png",
    ]
    problems, _ = check_data(output, ["test"])
    assert problems == []
    pairs = {pair.person: load_sample(pair, 256, 192) for pair in read_pairs(output, "test", False)}
    person, turned = pairs["astronaut.png"], pairs["phone.png"]
    difference = np.abs(person.image.astype(int) - turned.image)
    assert difference.mean() < 3, "the phone's image is upright"
    assert 0.1 < (person.mask > 0).mean() < 0.7
    parts = decode_parts(person.densepose)
    assert (person.mask[parts == TORSO] > 0).mean() > 0.94
    assert (person.agnostic[person.mask > 0] == 128).all()
    worn = person.warped_mask > 0
    assert 0.9 < worn.sum() / (parts == TORSO).sum() < 2.5, "the garment, with its sleeves"
    assert (person.mask[worn] > 0).mean() > 0.99


def test_several_processes_write_the_same_files(folders, tmp_path):
    prepare_dataset(configure(folders, tmp_path / "one"))
    # a command, for the workers import the package by its name
    command = [sys.executable, "-m", "stableviton_core", "prepare", str(tmp_path / "two")]
    command += ["--persons", str(folders / "persons"), "--garments", str(folders / "garments")]
    command += ["--height", "256", "--width", "192", "--workers", "2"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    one, two = read_all(tmp_path / "one"), read_all(tmp_path / "two")
    assert one == two and len(one) > 20


def test_a_second_run_makes_only_what_is_missing(folders, tmp_path):
    output = tmp_path / "data"
    prepare_dataset(configure(folders, output))
    before = read_all(output)
    kept, missing = (output / "test" / "image" / f"{n}.png" for n in ("hopper", "astronaut"))
    written = kept.stat().st_mtime_ns
    missing.unlink()
    prepare_dataset(configure(folders, output))
    assert read_all(output) == before and kept.stat().st_mtime_ns == written


def test_a_stopped_run_goes_on(folders, tmp_path):
    prepare_dataset(configure(folders, tmp_path / "whole"))
    output = tmp_path / "stopped"
    command = [sys.executable, "-m", "stableviton_core", "prepare", str(output)]
    command += ["--persons", str(folders / "persons"), "--garments", str(folders / "garments")]
    command += ["--height", "256", "--width", "192"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not list(output.glob("test/image-densepose/*.png")) and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGINT)
    _, messages = process.communicate(timeout=100)
    assert process.returncode == 130 and "Run the same command again" in messages, messages
    assert not (output / "test_pairs.txt").exists() and not list(output.rglob("*.partial"))
    prepare_dataset(configure(folders, output))
    assert read_all(output) == read_all(tmp_path / "whole")


def test_training_pairs_are_persons_in_their_own_garment(folders, tmp_path):
    output = tmp_path / "data"
    report = prepare_dataset(configure(folders, output, split="train"))
    assert report.pairs == (output / "train_pairs.txt").read_text().splitlines()
    assert report.pairs == ["hopper.png hopper.png"]
    reasons = (output / REPORT).read_text()
    for name in ("astronaut.jpg: no garment", "phone.jpg: no garment", "shirt.png: no person"):
        assert name in reasons
    assert sorted(file.name for file in (output / "train" / "image").iterdir()) == ["hopper.png"]
    problems, counts = check_data(output, ["train"])
    assert problems == [] and "1 with a warped garment mask" in counts
    prepare_dataset(configure(folders, output))
    assert check_data(output)[0] == [], "the other split goes into the same folder"


def test_a_person_whose_garment_cannot_be_used_is_in_no_training_pair(folders, tmp_path):
    root = tmp_path / "photos"
    shutil.copytree(folders, root)
    Image.new("RGB", (300, 400), "white").save(root / "garments" / "astronaut.png")
    report = prepare_dataset(configure(root, tmp_path / "data", split="train"))
    assert report.pairs == ["hopper.png hopper.png"]
    reason = report.unused[str(root / "persons" / "astronaut.jpg")]
    assert "same name could not be used" in reason


def test_prepared_photos_train_the_second_phase(folders, tmp_path):
    data = tmp_path / "data"
    prepare_dataset(configure(folders, data, split="train"))
    prepare_dataset(configure(folders, data))
    write_checkpoint(tmp_path / "tiny.safetensors", config=TINY)
    config = tiny_config(tmp_path, tmp_path / "run", max_train_steps=1, train_batch_size=1)
    folder = train(replace(config, data=data, phase="atv"))
    assert (folder / WEIGHTS).is_file()


def test_the_warped_mask_is_the_persons_own_garment_by_category():
    labels = np.array([CIHP.index(name) for name in ("upper", "dress", "skirt", "pants", "face")])
    parse = labels[None].repeat(2, axis=0)
    others = np.zeros(parse.shape, bool)
    others[1] = True
    for category, expected in (
        ("upper", [True, True, False, False, False]),
        ("lower", [False, False, True, True, False]),
        ("dresses", [True, True, True, False, False]),
    ):
        worn = find_worn_garment(parse, category, others)
        assert worn.tolist() == [expected, [False] * 5]
        assert find_worn_garment(parse, category)[1].tolist() == expected


def test_large_networks_take_the_place_of_the_skeleton(folders, tmp_path):
    densepose = write_torchscript(tmp_path / "dense.torchscript", 2)
    segformer = write_segformer(tmp_path / "clothes")
    config = configure(folders, tmp_path / "data", densepose=densepose, segformer=segformer)
    prepare_dataset(config)
    folder = tmp_path / "data" / "test"
    names = {name: f"{name}/hopper.png" for name in ("image", "image-densepose", "image-parse-v3")}
    image, colours, coloured = (read_image(folder / file) for file in names.values())
    parts = decode_parts(colours)
    assert set(np.unique(parts)) <= {0, 2, 3} and parts.any(), "the network knows two parts"
    with load_segformer(segformer, lambda _: nullcontext(torch.device("cpu"))) as parse:
        labels = parse(image, analyze_person(image).pose)
    assert np.array_equal(decode_labels(coloured, "viton-hd"), labels)
    worn = read_mask(folder / "gt_cloth_warped_mask" / "hopper.png") > 0
    assert worn.any() and not (worn & ~select_labels(labels, "upper", "coat", "dress")).any()


def test_an_openpose_network_gives_the_pose(folders, tmp_path):
    photo = read_image(folders / "persons" / "hopper.jpg")
    config = configure(folders, tmp_path / "plain")
    write_person(photo, "hopper", config, PersonNetworks())

    def find_poses(image: np.ndarray) -> list[Pose]:
        return [body.to_pose() for body in find_bodies(image)]

    openpose = PersonNetworks(openpose=find_poses)
    write_person(photo, "hopper", replace(config, output=tmp_path / "same"), openpose)
    assert read_all(tmp_path / "plain") == read_all(tmp_path / "same")
    with pytest.raises(NoPersonError, match="OpenPose found nobody"):
        write_person(photo, "hopper", config, PersonNetworks(openpose=lambda image: []))


def test_other_settings_do_not_mix(folders, tmp_path):
    output = tmp_path / "data"
    network = write_torchscript(tmp_path / "dense.torchscript", 1)
    config = configure(folders, output, densepose=network)
    record_settings(config)
    moved = tmp_path / "elsewhere" / "renamed.torchscript"
    moved.parent.mkdir()
    moved.write_bytes(network.read_bytes())
    record_settings(replace(config, densepose=moved, split="train", workers=3))
    for changes, message in (
        ({"height": 512}, "height was 256, is 512"),
        ({"category": "lower"}, "category was upper, is lower"),
        ({"densepose": None}, "densepose was dense.torchscript .*, is not given"),
    ):
        with pytest.raises(StableVITONError, match=message):
            prepare_dataset(replace(config, **changes))
    write_torchscript(network, 2)
    with pytest.raises(StableVITONError, match="densepose was"):
        prepare_dataset(config)
    (output / SETTINGS).write_text("{")
    with pytest.raises(StableVITONError, match=f"{SETTINGS} cannot be read"):
        prepare_dataset(config)
    (output / "test" / "image").mkdir(parents=True)
    (output / SETTINGS).unlink()
    with pytest.raises(StableVITONError, match="did not make"):
        prepare_dataset(config)


def test_everything_wrong_is_listed_before_anything_is_made(folders, tmp_path):
    config = configure(folders, tmp_path / "data", height=100, workers=0)
    files = {"densepose": tmp_path / "none", "segformer": tmp_path, "openpose": tmp_path / "no"}
    with pytest.raises(StableVITONError) as caught:
        prepare_dataset(replace(config, garments=tmp_path / "nothing", **files))
    for part in (
        *("--height must be a positive multiple of 8", "--workers must be", "--densepose:"),
        *("--openpose:", "nothing is not a folder", "5 problems"),
    ):
        assert part in str(caught.value)
    with pytest.raises(StableVITONError, match="no SegFormer in transformers' layout"):
        empty = tmp_path / "empty"
        empty.mkdir()
        prepare_dataset(configure(folders, tmp_path / "data", segformer=empty))
    assert not (tmp_path / "data" / "test").exists()


def test_the_commands_of_the_page_run_as_written(folders, tmp_path, monkeypatch):
    for split in ("train", "test"):
        for name in ("persons", "garments"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
        shutil.copy(HOPPER, tmp_path / "photos" / split / "persons" / "anna.jpg")
        garment = tmp_path / "photos" / split / "garments" / "anna.png"
        shutil.copy(folders / "garments" / "shirt.png", garment)
    write_torchscript(tmp_path / "densepose_r50_fpn_dl.torchscript", 2)
    write_segformer(tmp_path / "segformer_b2_clothes")
    page = (ROOT / "docs" / "prepare.md").read_text(encoding="utf-8")
    commands = re.findall("^python -m stableviton_core (.+)$", page, re.M)
    assert len(commands) == 4
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert [main(shlex.split(command)) for command in commands] == [0, 0, 0, 0]
    finally:
        signal.signal(signal.SIGTERM, handler)
    for folder in ("data/train", "data/test", "data-full/train"):
        assert (tmp_path / folder / "gt_cloth_warped_mask" / "anna.png").is_file()


def test_names_fit_pair_files(folders, tmp_path):
    root = tmp_path / "photos"
    for name in ("persons", "garments"):
        (root / name).mkdir(parents=True)
    shutil.copy(folders / "persons" / "hopper.jpg", root / "persons" / "my photo.jpg")
    shutil.copy(folders / "persons" / "hopper.jpg", root / "persons" / "my_photo.jpeg")
    shutil.copy(folders / "garments" / "shirt.png", root / "garments" / "my photo.png")
    output = tmp_path / "data"
    pair_file = output / "test_pairs.txt"
    record_settings(configure(root, output))
    pair_file.write_text("mine.jpg mine.jpg\n")
    report = prepare_dataset(configure(root, output))
    assert report.pairs == ["my_photo.png my_photo.png"] and check_data(output, ["test"])[0] == []
    assert "my photo.jpg has the same name" in report.unused[str(root / "persons/my_photo.jpeg")]
    pair_file.write_text("other.jpg other.jpg\n")
    prepare_dataset(configure(root, output))
    assert (output / "test_pairs.txt.old").read_text() == "mine.jpg mine.jpg\n"
    assert (output / "test_pairs.txt.old2").read_text() == "other.jpg other.jpg\n"


def test_the_largest_of_several_persons_is_dressed():
    one = astronaut()
    small = np.array(Image.fromarray(one).resize((380, 380)))
    both = np.full((512, 900, 3), 255, np.uint8)
    both[:, :512], both[100:480, 515:895] = one, small
    found = find_bodies(both)
    assert len(found) == 2 and found[0].to_pose()["nose"][0] < 512
    alone, together = analyze_person(one), analyze_person(both)
    shared = alone.outline & together.outline[:, :512]
    assert shared.sum() / alone.outline.sum() > 0.9
    assert not select_labels(together.parse, "upper")[:, 600:].any()


@pytest.mark.parametrize("size", [(1, 1), (80, 12000), (300, 200)])
def test_images_without_anybody_are_errors(size):
    for level in (0, 255):
        with pytest.raises((NoPersonError, StableVITONError)):
            analyze_person(np.full((*size, 3), level, np.uint8))
