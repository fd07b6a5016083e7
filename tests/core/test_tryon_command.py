"""`stableviton tryon`: results of a data set and of a photo, as a user makes them."""

import json
import logging
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.checkpoints import write_checkpoint
from helpers.training import TINY
from stableviton_core.dataset.pairs import read_pairs
from stableviton_core.dataset.samples import load_sample
from stableviton_core.errors import StableVITONError
from stableviton_core.images import read_image, write_image
from stableviton_core.inference import command, dress_dataset, photo
from stableviton_core.inference.check_run import check_run
from stableviton_core.inference.config import TryOnConfig, parse_shard
from stableviton_core.inference.tryons import load_networks, make_tryons, repaint
from stableviton_core.synthetic.write_dataset import write_dataset

ROOT = Path(__file__).resolve().parents[2]
HOPPER = ROOT / "tests" / "golden" / "person" / "grace_hopper.jpg"
PERSONS = 5
NAMES = [f"{person:05d}_00_{person:05d}_00.png" for person in range(PERSONS)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_dataset(folder / "data", 1, PERSONS, 1, 64, seed=0)
    write_checkpoint(folder / "tiny.safetensors", config=TINY)
    return folder


@pytest.fixture(scope="module")
def config(inputs, tmp_path_factory) -> TryOnConfig:
    """Paired results as PNG files, three steps."""
    return TryOnConfig(
        checkpoint=inputs / "tiny.safetensors",
        output=tmp_path_factory.mktemp("results"),
        data=inputs / "data",
        steps=3,
        height=64,
        width=48,
        format="png",
        device="cpu",
    )


@pytest.fixture(scope="module")
def expected(config) -> dict[str, np.ndarray]:
    """The results of one undisturbed run, a pair a batch."""
    assert command.run(config) == 0
    return read_results(config)


def read_results(config: TryOnConfig) -> dict[str, np.ndarray]:
    return {path.name: read_image(path) for path in config.result_folder.glob("*.[jp][pn]g")}


def tryon(config: TryOnConfig, *arguments: object) -> list[str]:
    return [
        *(sys.executable, "-m", "stableviton_core", "tryon", "--data", str(config.data)),
        *("--checkpoint", str(config.checkpoint), "--output", str(config.output)),
        *("--height", "64", "--width", "48", "--format", "png", "--steps", str(config.steps)),
        *("--batch-size", str(config.batch_size), "--device", config.device),
        *map(str, arguments),
    ]


def differ(one: np.ndarray, two: np.ndarray) -> int:
    """The largest difference in levels of 255."""
    return int(np.abs(one.astype(int) - two).max())


def test_results_have_the_authors_names(config, expected, tmp_path):
    assert sorted(expected) == NAMES
    assert all(image.shape == (64, 48, 3) for image in expected.values())
    unpaired = replace(config, output=tmp_path, unpaired=True, format="jpg")
    assert command.run(unpaired) == 0
    files = sorted(path.name for path in (tmp_path / "unpair").glob("*.jpg"))
    assert files == [f"{person:05d}_00_{person:05d}_01.jpg" for person in range(PERSONS)]


def test_a_result_is_the_models(config, expected):
    pair = read_pairs(config.data, "test", paired=True)[1]
    sample = load_sample(pair, 64, 48)
    (image,) = make_tryons(load_networks(config), [sample], [pair.name], config)
    assert np.array_equal(image, expected[NAMES[1]])
    assert differ(image, expected[NAMES[0]]) > 10, "the results differ"


def test_results_depend_on_neither_batch_nor_part(config, expected, tmp_path):
    batches = replace(config, output=tmp_path / "batches", batch_size=3)
    assert command.run(batches) == 0
    parts = replace(config, output=tmp_path / "parts")
    for index in (1, 2):
        assert command.run(replace(parts, shard=f"{index}/2")) == 0
        assert len(read_results(parts)) == (3 if index == 1 else PERSONS)
    for name, image in expected.items():
        assert differ(read_results(batches)[name], image) <= 1, "rounding"
        assert np.array_equal(read_results(parts)[name], image)


def test_processes_of_a_launcher_share_the_pairs(config, expected, tmp_path, monkeypatch):
    part = replace(config, output=tmp_path, shard="2/2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, names in (("0", NAMES[2:3]), ("1", NAMES[2:4])):
        monkeypatch.setenv("RANK", rank)
        assert command.run(part) == 0
        assert sorted(read_results(part)) == names, "of four parts, the third and the fourth"


def test_accelerate_launches_two_processes(config, expected, tmp_path):
    parts = replace(config, output=tmp_path)
    launcher = [
        *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"),
        *("--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"),
    ]
    arguments = [*launcher, *tryon(parts)[1:]]
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "part 1 of 2: 3 of 5 pairs" in done.stderr and "part 2 of 2" in done.stderr
    for name, image in expected.items():
        assert differ(read_results(parts)[name], image) <= 1


def test_a_task_of_ray_makes_the_same(config, expected, tmp_path):
    pytest.importorskip("ray", reason="needs the package ray")
    on_ray = replace(config, output=tmp_path, device="auto")
    done = subprocess.run([*tryon(on_ray), "--ray"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "5 of 5 results" in done.stderr
    for name, image in expected.items():
        assert differ(read_results(on_ray)[name], image) <= 1


def test_a_killed_run_resumes_to_the_same_files(config, tmp_path):
    whole, killed = (
        replace(config, output=tmp_path / name, steps=20, batch_size=2)
        for name in ("whole", "killed")
    )
    assert command.run(whole) == 0
    command_line = tryon(killed)
    process = subprocess.Popen(command_line, cwd=ROOT, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 240
    while not read_results(killed):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert 0 < len(read_results(killed)) < PERSONS
    first = killed.result_folder / NAMES[0]
    written = first.stat().st_mtime_ns
    (killed.result_folder / NAMES[1]).unlink(missing_ok=True)  # half of a batch
    assert command.run(killed) == 0
    assert first.stat().st_mtime_ns == written
    for name in NAMES:
        files = [folder / "pair" / name for folder in (whole.output, killed.output)]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert not list(killed.output.rglob("*.partial"))


def test_an_interrupted_run_says_how_to_go_on(config, tmp_path):
    stopped = replace(config, output=tmp_path, steps=500)
    command_line = tryon(stopped)
    process = subprocess.Popen(command_line, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while "images" not in (line := process.stderr.readline()):
        assert line, "it ended"
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 130, messages
    assert "Run the same command again" in messages and "Traceback" not in messages


def test_complete_results_need_no_model(config, expected, monkeypatch):
    monkeypatch.setattr(dress_dataset, "load_networks", None)
    assert command.run(config) == 0


def test_results_of_other_settings_are_not_taken_for_done(config, expected):
    with pytest.raises(StableVITONError, match="steps was 3, is 4.*another --output"):
        command.run(replace(config, steps=4))
    with pytest.raises(StableVITONError, match="seed was 0, is 1"):
        command.run(replace(config, seed=1))
    with pytest.raises(StableVITONError, match="dtype was auto, is bf16"):
        command.run(replace(config, dtype="bf16"))


def test_images_of_unknown_settings_are_not_taken_for_results(config, tmp_path):
    config = replace(config, output=tmp_path / "others")
    write_image(config.result_folder / f"other.{config.format}", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(StableVITONError, match="holds images of unknown settings"):
        command.run(config)


def test_results_of_another_checkpoint_or_data_set_are_not_taken_for_done(
    config, expected, tmp_path
):
    """The other ones have the same names and sizes."""
    other = tmp_path / config.checkpoint.name
    content = bytearray(config.checkpoint.read_bytes())
    content[-1] ^= 1
    other.write_bytes(content)
    assert other.stat().st_size == config.checkpoint.stat().st_size
    with pytest.raises(StableVITONError, match="checkpoint was tiny.*, is tiny"):
        command.run(replace(config, checkpoint=other))
    shutil.copytree(config.data, tmp_path / "prepared")
    with pytest.raises(StableVITONError, match="data was data, is prepared"):
        command.run(replace(config, data=tmp_path / "prepared"))


def test_an_output_that_cannot_be_written_is_an_error(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StableVITONError, match="cannot be read or written"):
        command.run(replace(config, output=tmp_path / "file"))


def test_repaint_keeps_the_person_outside_the_soft_mask(config, expected, tmp_path):
    person, result = np.full((1, 3, 3), 200, np.uint8), np.full((1, 3, 3), 100, np.uint8)
    painted = repaint(person, result, np.array([[0, 51, 255]], np.uint8))
    assert painted[0, :, 0].tolist() == [200, 180, 100]
    config = replace(config, output=tmp_path, repaint=True)
    assert command.run(config) == 0
    pair = read_pairs(config.data, "test", paired=True)[0]
    sample, image = load_sample(pair, 64, 48), read_results(config)[NAMES[0]]
    assert np.array_equal(image[sample.mask == 0], sample.image[sample.mask == 0])
    inside = sample.mask == 255
    assert np.array_equal(image[inside], expected[NAMES[0]][inside])


def test_start_guidance_and_seed_change_the_result(config, expected, tmp_path):
    for index, changes in enumerate(({"start": "noise"}, {"guidance": 3.0}, {"seed": 1})):
        other = replace(config, output=tmp_path / str(index), **changes)
        pairs = check_run(other)[:1]
        dress_dataset.dress_dataset(other, pairs, dress_dataset.Part(0, 1))
        assert differ(read_results(other)[NAMES[0]], expected[NAMES[0]]) > 3, changes


def test_half_precision_gives_nearly_the_same(config, expected, tmp_path):
    half = replace(config, output=tmp_path, dtype="bf16")
    assert load_networks(half).model.network.unet.out[2].weight.dtype == torch.bfloat16
    assert command.run(half) == 0
    for name, image in expected.items():
        assert np.abs(read_results(half)[name].astype(int) - image).mean() < 5


def test_everything_wrong_is_one_list_before_a_model_is_loaded(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(dress_dataset, "load_networks", None)
    data = tmp_path / "data"
    shutil.copytree(inputs / "data", data)
    (data / "test" / "cloth" / "00003_00.png").unlink()
    (data / "test" / "image-densepose" / "00001_00.png").unlink()
    config = TryOnConfig(
        checkpoint=tmp_path / "none.ckpt",
        output=tmp_path / "results",
        data=data,
        steps=0,
        height=500,
        category="hats",
        device="cuda",
        shard="0/2",
        guidance=float("nan"),
        batch_size=0,
        seed=-1,
    )
    with pytest.raises(StableVITONError) as caught:
        command.run(config)
    message = str(caught.value)
    for part in (
        *("--steps", "--height", "--guidance", "--batch-size", "--seed", "--shard"),
        *("--category is one of upper, lower, dresses, got 'hats'", "no CUDA GPU"),
        *("none.ckpt is not a file", "cloth/00003_00.png", "image-densepose/00001_00.png"),
    ):
        assert part in message, part
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": Path("nowhere")}, "nowhere"),
        ({"data": None}, "give either --data, or --person and --garment"),
        ({"person": Path("p.jpg")}, "give either --data"),
        ({"device": "cpu", "dtype": "fp16"}, "--dtype fp16 needs a GPU"),
        ({"device": "tpu"}, "--device is one of auto, cpu, cuda, mps, got 'tpu'"),
        ({"vae": Path("none.pt")}, "none.pt is not a file"),
    ],
)
def test_wrong_settings(config, changes, message):
    with pytest.raises(StableVITONError, match=message):
        command.run(replace(config, **changes))


def test_parts_are_counted_from_one():
    assert parse_shard("1/3") == (0, 3) and parse_shard("3/3") == (2, 3)
    for wrong in ("0/3", "4/3", "3", "a/b", "1/0", "-1/2"):
        with pytest.raises(StableVITONError, match="--shard"):
            parse_shard(wrong)


def test_results_of_two_pairs_never_share_a_name(inputs, config, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(inputs / "data", data)
    for folder in ("image", "image-densepose", "agnostic-v3.2", "cloth"):
        for name in ("a_b", "a", "c", "b_c"):
            shutil.copy(
                data / "test" / folder / "00000_00.png", data / "test" / folder / f"{name}.png"
            )
    for name in ("a_b", "a"):
        masks = data / "test" / "agnostic-mask"
        shutil.copy(masks / "00000_00_mask.png", masks / f"{name}_mask.png")
    pairs = data / "test_pairs.txt"
    pairs.write_text("a_b.png c.png\na.png b_c.png\n")
    with pytest.raises(StableVITONError, match="2 pairs would have the result a_b_c.png"):
        check_run(replace(config, data=data, output=tmp_path, unpaired=True))
    pairs.write_text("a.png c.png\na.png c.png\n")
    assert len(check_run(replace(config, data=data, output=tmp_path, unpaired=True))) == 1


def test_an_unreadable_image_fails_its_pair_only(inputs, config, expected, tmp_path, caplog):
    data = tmp_path / "data"
    shutil.copytree(inputs / "data", data)
    (data / "test" / "image" / "00001_00.png").write_bytes(b"no image")
    caplog.set_level(logging.INFO)
    broken = replace(config, data=data, output=tmp_path / "results", batch_size=2)
    assert command.run(broken) == 1
    assert sorted(read_results(broken)) == [NAMES[0], *NAMES[2:]]
    assert "00001_00+00001_00" in caplog.text and "4 of 5 results" in caplog.text
    assert differ(read_results(broken)[NAMES[0]], expected[NAMES[0]]) <= 1


@pytest.fixture(scope="module")
def photo_config(inputs, config, tmp_path_factory) -> TryOnConfig:
    return replace(
        config,
        data=None,
        format="jpg",
        person=HOPPER,
        garment=inputs / "data" / "test" / "cloth" / "00000_00.png",
        output=tmp_path_factory.mktemp("photo") / "dressed.png",
        height=256,
        width=192,
    )


def test_a_photo_is_dressed_inside_the_mask_only(photo_config):
    assert command.run(photo_config) == 0
    before, after = read_image(photo_config.person), read_image(photo_config.output)
    assert before.shape == after.shape
    garment = read_image(photo_config.garment)
    sample, region = photo.prepare_sample(before, garment, photo_config)
    rows, columns = region.slices_in_photo()
    outside = np.ones(before.shape[:2], bool)
    outside[rows, columns] = False
    assert np.array_equal(before[outside], after[outside])
    changed = (before != after).any(axis=-1)
    covered = (sample.mask > 0).mean() * region.height * region.width
    assert 0.5 * covered < changed.sum() < 1.05 * covered


def test_the_photo_fails_before_a_model_is_loaded(photo_config, tmp_path, monkeypatch):
    monkeypatch.setattr(photo, "load_networks", None)
    wall = tmp_path / "wall.png"
    Image.new("RGB", (300, 400), "grey").save(wall)
    with pytest.raises(StableVITONError, match="nobody was found"):
        command.run(replace(photo_config, person=wall))
    with pytest.raises(StableVITONError, match="--unpaired is for --data"):
        command.run(replace(photo_config, unpaired=True))
    with pytest.raises(StableVITONError, match="endings .png, .jpg"):
        command.run(replace(photo_config, output=tmp_path / "folder"))


def test_settings_lie_beside_the_results(config, expected):
    settings = json.loads((config.result_folder / "tryon.json").read_text())
    assert settings["steps"] == 3 and settings["checkpoint"].startswith("tiny.safetensors")
