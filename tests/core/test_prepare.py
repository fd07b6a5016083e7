"""Photos into a data set."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stableviton_core.dataset.check_data import check_data
from stableviton_core.dataset.pairs import read_pairs
from stableviton_core.dataset.samples import load_sample
from stableviton_core.errors import StableVITONError
from stableviton_core.person.analysis import NoPersonError, analyze_person, find_bodies
from stableviton_core.person.densepose import TORSO, decode_parts
from stableviton_core.person.labels import select_labels
from stableviton_core.person.prepare import REPORT, prepare_dataset
from stableviton_core.synthetic.draw_garment import generate_garment
from stableviton_core.synthetic.draw_person import generate_person
from stableviton_core.synthetic.renderer import render_sample

HOPPER = Path(__file__).resolve().parents[1] / "golden" / "person" / "grace_hopper.jpg"


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


def test_photos_become_a_data_set(folders, tmp_path):
    output = tmp_path / "data"
    report = prepare_dataset(folders / "persons", folders / "garments", output, 256, 192)
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
    assert (person.mask[parts == TORSO] > 0).mean() > 0.95
    assert (person.agnostic[person.mask > 0] == 128).all()


def test_a_second_run_makes_only_what_is_missing(folders, tmp_path):
    output = tmp_path / "data"
    prepare_dataset(folders / "persons", folders / "garments", output, 256, 192)
    kept, missing = (output / "test" / "image" / f"{n}.png" for n in ("hopper", "astronaut"))
    before = kept.stat().st_mtime_ns
    missing.unlink()
    report = prepare_dataset(folders / "persons", folders / "garments", output, 256, 192)
    assert missing.is_file() and kept.stat().st_mtime_ns == before
    assert len(report.persons) == 3


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
