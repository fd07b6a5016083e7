"""The output folder of a batch: one writer, results that are what they were, and a manifest that
says nothing about files elsewhere."""

import hashlib
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from PIL import Image

from helpers.batches import run_jobs, start_batch
from helpers.fake_server import GRAPH, run_fake_server
from stableviton_core.errors import StableVITONError
from stableviton_core.folder_lock import lock_folder
from stableviton_core.serving.batch import jobs as naming
from stableviton_core.serving.batch.jobs import Job, combine_folders, name_jobs
from stableviton_core.serving.batch.manifest import MANIFEST, read_manifest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    for name in ("persons/p", "garments/a", "garments/b"):
        file = tmp_path / f"{name}.png"
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (12, 16), "red").save(file)
    return tmp_path / "persons", tmp_path / "garments"


@pytest.fixture
def jobs(folders) -> list[Job]:
    return combine_folders(*folders, {}, seed=7)


def run(jobs: list[Job], output: Path) -> tuple[int, list[Path]]:
    """How many prompts a batch queued, and its results."""
    with run_fake_server() as server:
        outcome = run_jobs(jobs, [server.url], output)
    assert len(outcome.results) == len(jobs)
    return len(server.prompts), sorted(outcome.results.values())


def wait_until(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_a_second_client_says_who_writes_and_a_kill_frees_the_folder(folders, tmp_path):
    output = tmp_path / "out"
    with run_fake_server(latency=60) as server:
        first = start_batch(folders, server.url, output)
        wait_until(lambda: server.prompts)
        second = start_batch(folders, server.url, output)
        _, message = second.communicate(timeout=60)
        assert second.returncode == 1
        assert f"is in use by `stableviton batch`, process {first.pid} on" in message
        assert len(server.prompts) == 2, "the second client queued something"
        first.send_signal(signal.SIGKILL)
        first.communicate(timeout=30)
    with run_fake_server() as server:
        third = start_batch(folders, server.url, output)
        _, message = third.communicate(timeout=60)
    assert third.returncode == 0, message


@pytest.mark.parametrize(
    ("side", "kills"), [(8, 3), pytest.param(30, 27, marks=pytest.mark.slow)], ids=["64", "900"]
)
def test_kills_lose_no_result(tmp_path, side, kills):
    """side x side results, killed again and again."""
    folders = tmp_path / "persons", tmp_path / "garments"
    for folder in folders:
        folder.mkdir()
        for index in range(side):
            Image.new("RGB", (12, 16), (index, 0, 0)).save(folder / f"{folder.name}{index}.png")
    output, chance = tmp_path / "out", random.Random(0)
    with run_fake_server(latency=0.02) as server:
        for _ in range(kills):
            before = len(server.prompts)
            process = start_batch(folders, server.url, output)
            wait_until(lambda before=before: len(server.prompts) > before)
            time.sleep(chance.uniform(0, side * side * 0.02 / kills))
            process.kill()
            process.communicate(timeout=30)
        last = start_batch(folders, server.url, output)
        _, log = last.communicate(timeout=300)
    assert last.returncode == 0, log
    results = sorted(output.glob("*.png"))
    assert len(results) == side * side and not list(output.glob("*.partial"))
    assert all(file.read_bytes() == server.image for file in results)
    assert len(server.prompts) <= side * side + 2 * kills, "what was done was made again"


def test_a_folder_is_locked_once_and_free_afterwards(tmp_path):
    with lock_folder(tmp_path / "out", "a test"):
        with pytest.raises(StableVITONError, match=f"`a test`, process {os.getpid()} on"):
            with lock_folder(tmp_path / "out", "another"):
                pass
    with lock_folder(tmp_path / "out", "another"):
        pass


@pytest.mark.parametrize("name", [".lock", ".lock-holder"])
def test_a_link_in_place_of_the_lock_is_not_written_through(tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(victim)
    with pytest.raises(StableVITONError, match=f"{name} is a link"):
        with lock_folder(tmp_path / "out", "a test"):
            pass
    assert victim.read_text() == "mine"


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _halve(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _replace(file: Path) -> None:
    Image.new("RGB", (48, 64), "black").save(file)


def _change_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def _link(file: Path) -> None:
    copy = file.with_name("elsewhere.bin")
    file.replace(copy)
    file.symlink_to(copy)


@pytest.mark.parametrize("damage", [Path.unlink, _empty, _halve, _replace, _change_a_bit, _link])
def test_a_result_that_is_not_what_was_written_is_made_again(jobs, tmp_path, damage):
    output = tmp_path / "out"
    count, results = run(jobs, output)
    whole = results[0].read_bytes()
    assert count == 2 and run(jobs, output)[0] == 0
    damage(results[0])
    assert run(jobs, output)[0] == 1
    assert results[0].read_bytes() == whole and not results[0].is_symlink()
    assert run(jobs, output)[0] == 0


def test_the_manifest_has_size_and_hash_of_every_result(jobs, tmp_path):
    _, results = run(jobs, tmp_path / "out")
    for entry in read_manifest(tmp_path / "out").values():
        content = (tmp_path / "out" / entry.files[0]).read_bytes()
        assert entry.sizes == [len(content)]
        assert entry.sha256 == [hashlib.sha256(content).hexdigest()]


def write_lines(output: Path, **changes: object) -> None:
    """Entries of a finished batch with values changed."""
    lines = [json.loads(line) for line in (output / MANIFEST).read_text().splitlines()]
    text = "\n".join(json.dumps(line | changes) for line in lines)
    (output / MANIFEST).write_text(text + "\n")


WRONG_VALUES = {
    "files text": {"files": "p+a.png"},
    "files number": {"files": 1},
    "files null": {"files": None},
    "file null": {"files": [None]},
    "file list": {"files": [["p+a.png"]]},
    "absolute": {"files": ["/etc/passwd"]},
    "above": {"files": ["../secret.png"]},
    "dots": {"files": [".."]},
    "here": {"files": ["."]},
    "empty": {"files": [""]},
    "subfolder": {"files": ["sub/p+a.png"]},
    "Windows": {"files": ["C:\\secret.png"]},
    "zero byte": {"files": ["p\0.png"]},
    "no files": {"files": []},
    "pair number": {"pair": 1},
    "pair list": {"pair": ["p"]},
    "key null": {"key": None},
    "key object": {"key": {}},
    "hash text": {"sha256": "0"},
    "hash number": {"sha256": [1]},
    "hashes missing": {"sha256": []},
    "hash of another": {"sha256": ["0" * 64]},
    "unknown": {"surprise": 1},
}
WRONG_LINES = {
    "null": "null",
    "list": "[1]",
    "number": "3",
    "text": '"x"',
    "empty object": "{}",
    "garbage": "\0\0\0",
    "cut off": '{"pair": "p+a", "key"',
    "deep": "[" * 100_000,
    "deep entry": '{"pair":' * 100_000,
    "huge number": '{"pair": 1' + "0" * 5000 + "}",
}


@pytest.mark.parametrize("case", [*WRONG_VALUES, *WRONG_LINES])
def test_a_damaged_manifest_costs_no_more_than_its_entries(jobs, tmp_path, case, caplog):
    """33 manifests."""
    output = tmp_path / "out"
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"mine")
    _, results = run(jobs, output)
    if case in WRONG_VALUES:
        write_lines(output, **WRONG_VALUES[case])
    else:
        (output / MANIFEST).write_text(WRONG_LINES[case])
    caplog.clear()
    count, again = run(jobs, output)
    assert count == 2 and again == results
    assert secret.read_bytes() == b"mine"
    if case not in ("no files", "hash of another", "hashes missing"):
        assert "manifest.jsonl: skipped line 1" in caplog.text
    assert run(jobs, output)[0] == 0, "the new lines are read beside the damaged ones"


@pytest.mark.parametrize("name", [MANIFEST, "p+a.png", "p+a.png.partial"])
def test_nothing_is_written_through_a_planted_link(jobs, tmp_path, name):
    output, victim = tmp_path / "out", tmp_path / "victim"
    output.mkdir()
    victim.write_text("mine")
    (output / name).symlink_to(victim)
    assert run(jobs, output)[0] == 2
    assert victim.read_text() == "mine"
    assert run(jobs, output)[0] == 0
    assert not any(file.is_symlink() for file in output.iterdir())


def test_hashes_of_many_seeds_do_not_collide(monkeypatch):
    """32 bits of hash did, at 52,000 seeds; 60,000 here."""
    images = {"person": Path("p.png"), "garment": Path("g.png")}
    jobs = name_jobs((images, seed) for seed in range(60_000))
    assert len({job.name for job in jobs}) == 60_000
    monkeypatch.setattr(naming, "HASH_DIGITS", 2)
    with pytest.raises(StableVITONError, match="results would have the same name"):
        name_jobs((images, seed) for seed in range(600))


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_said_before_a_server_is_asked(folders, seed):
    with pytest.raises(StableVITONError, match=f"the seed of .*p.png with .* is {seed}; seeds are"):
        combine_folders(*folders, {}, seed=seed)


def test_a_file_that_the_server_lacks_is_the_graphs_mistake(jobs, tmp_path):
    graph = json.loads(json.dumps(GRAPH))
    graph["3"]["inputs"]["mode"] = "missing.ckpt"
    message = (
        "(?s)^this batch cannot run as it is.*'Sampler'.*mode is 'missing.ckpt', but can be fast, "
        "good.*models folder.*--set"
    )
    with run_fake_server() as server, pytest.raises(StableVITONError, match=message):
        run_jobs(jobs, [server.url], tmp_path / "out", graph=graph)
    with pytest.raises(StableVITONError, match="^no server can run this batch"):
        run_jobs(jobs, ["http://127.0.0.1:9"], tmp_path / "out")


def test_a_pipe_among_the_images_fails_its_own_pairs(folders, tmp_path):
    os.mkfifo(folders[1] / "c.png")
    jobs = combine_folders(*folders, {}, seed=0)
    with run_fake_server() as server:
        outcome = run_jobs(jobs, [server.url], tmp_path / "out")
    assert set(outcome.results) == {"p+a", "p+b"}
    assert "c.png cannot be read as an image (it is not a file)" in outcome.failed["p+c"]
