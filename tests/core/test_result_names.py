"""Which person and garment a result shows, by its file's name."""

import itertools

import pytest
from PIL import Image

from helpers.training import HEIGHT
from stableviton_core.dataset.pairs import format_result_name, read_pairs
from stableviton_core.errors import StableVITONError
from stableviton_core.evaluation.results import (
    Reference,
    is_paired,
    list_results,
    match_references,
    read_reference,
    read_test_split,
    resolve_results,
)
from stableviton_core.serving.batch.jobs import name_jobs
from stableviton_core.synthetic.write_dataset import write_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "drawn"
    write_dataset(folder, 1, 3, 1, HEIGHT, 0)
    return folder


def make_reference(folder, *names) -> Reference:
    folder.mkdir()
    for name in names:
        Image.new("RGB", (12, 16)).save(folder / f"{name}.png")
    return read_reference(folder)


def read_names(reference, folder, *names):
    results = resolve_results([folder / name for name in names], reference)
    return [(result.person, result.garment) for result in results]


def test_names_of_every_maker(tmp_path):
    reference = make_reference(tmp_path / "real", "00001_00", "00002_00", "a+b", "anna k")
    assert read_names(
        reference,
        tmp_path,
        "00001_00_00002_00.jpg",
        "00001_00+00002_00.png",
        "00001_00+00002_00-0123abcd.png",
        "a+b_00001_00.jpg",
        "a+b+a+b.png",
        "00002_00.webp",
        "anna_k+a+b-0123abcd.png",
    ) == [
        ("00001_00", "00002_00"),
        ("00001_00", "00002_00"),
        ("00001_00", "00002_00"),
        ("a+b", "00001_00"),
        ("a+b", "a+b"),
        ("00002_00", None),
        ("anna k", "a+b"),
    ]


def test_a_hash_is_only_removed_where_the_name_is_unknown(tmp_path):
    reference = make_reference(tmp_path / "real", "a", "b", "b-0123abcd")
    assert read_names(reference, tmp_path, "a+b-0123abcd.png") == [("a", "b-0123abcd")]


def test_unknown_and_ambiguous_names_are_listed(tmp_path):
    reference = make_reference(tmp_path / "real", "a", "a_b", "b_c", "c")
    with pytest.raises(StableVITONError) as caught:
        read_names(reference, tmp_path, "a_c.jpg", "a_b_c.jpg", "zoe.jpg", "a_x.jpg")
    unknown, ambiguous = str(caught.value).splitlines()
    assert unknown.startswith("2 of 4 results have no known") and "zoe.jpg, a_x.jpg" in unknown
    assert ambiguous.startswith("1 of 4 results can be read") and "a_b_c.jpg" in ambiguous


def test_results_of_the_batch_client_find_their_pair(data, tmp_path):
    """Whatever the batch client makes of a name is read back."""
    reference = read_test_split(data, None)
    persons, garments = sorted(reference.images), sorted(reference.garments)
    pairs = list(itertools.product(persons, garments)) * 2
    jobs = name_jobs(
        ({"person": tmp_path / f"{person}.png", "garment": tmp_path / f"{garment}.png"}, seed)
        for seed, (person, garment) in enumerate(pairs)
    )
    assert read_names(reference, tmp_path, *(f"{job.name}.png" for job in jobs)) == pairs


def test_the_pairs_of_a_data_set(data, tmp_path):
    reference = read_test_split(data, None)
    assert len(reference.images) == 3 and len(reference.garments) == 6
    for paired in (True, False):
        pairs = read_pairs(data, "test", paired)
        files = [tmp_path / format_result_name(pair, ".jpg") for pair in pairs]
        results = resolve_results(files, reference)
        assert [is_paired(result, reference) for result in results] == [paired] * 3
        if paired:
            matches = match_references(results, reference)
            assert [image for _, image in matches] == [pair.image for pair in pairs]


def test_dresscode(tmp_path):
    """Person N_0 wears garment N_1, and both lie in one folder."""
    folder = tmp_path / "data" / "dresses"
    (folder / "images").mkdir(parents=True)
    for number in (1, 2):
        for item in (0, 1):
            Image.new("RGB", (12, 16)).save(folder / "images" / f"00000{number}_{item}.jpg")
    first, second = "000001_0.jpg 000001_1.jpg 2\n", "000002_0.jpg 000002_1.jpg 2\n"
    (folder / "test_pairs_paired.txt").write_text(first + second)
    (folder / "test_pairs_unpaired.txt").write_text("000001_0.jpg 000002_1.jpg 2\n")
    reference = read_test_split(tmp_path / "data", "dresses")
    assert set(reference.images) == {"000001_0", "000002_0"}
    names = ["000001_0_000001_1.jpg", "000001_0_000002_1.jpg"]
    results = resolve_results([tmp_path / name for name in names], reference)
    assert [is_paired(result, reference) for result in results] == [True, False]


def test_a_mixture_is_no_paired_set(tmp_path):
    reference = make_reference(tmp_path / "real", "a", "b", "c")
    files = [tmp_path / name for name in ("a_a.jpg", "a_b.jpg", "b_c.jpg")]
    with pytest.raises(StableVITONError, match="2 of 3 results .* a_b.jpg, b_c.jpg.*--unpaired"):
        match_references(resolve_results(files, reference), reference)


def test_the_folder_above_names_both(tmp_path):
    for folder, name in (("pair", "a_a.jpg"), ("unpair", "a_b.jpg")):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / folder / name)
    assert [file.name for file in list_results(tmp_path, True)] == ["a_a.jpg"]
    assert [file.name for file in list_results(tmp_path, False)] == ["a_b.jpg"]
    Image.new("RGB", (8, 8)).save(tmp_path / "b_b.png")
    with pytest.raises(StableVITONError, match="has images and a folder pair"):
        list_results(tmp_path, True)
    (tmp_path / "b_b.png").unlink()
    (tmp_path / "unpair" / "a_b.jpg").unlink()
    (tmp_path / "unpair").rmdir()
    with pytest.raises(StableVITONError, match="has pair and no unpair: leave out --unpaired"):
        list_results(tmp_path, False)


def test_a_contact_sheet_is_no_result(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "contact-sheet.jpg")
    with pytest.raises(StableVITONError, match="no results but contact-sheet.jpg"):
        list_results(tmp_path, True)
    Image.new("RGB", (8, 8)).save(tmp_path / "a+b.png")
    assert [file.name for file in list_results(tmp_path, True)] == ["a+b.png"]
