"""Batches: lists of pairs, result names, graphs, and servers that fail (fake ones)."""

import asyncio
import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from helpers.batches import run_jobs, start_batch
from helpers.fake_server import GRAPH, INFO, SCORED_GRAPH, run_fake_server
from stableviton_core.errors import StableVITONError
from stableviton_core.serving import client
from stableviton_core.serving.batch import retry_policy
from stableviton_core.serving.batch.contact_sheet import write_contact_sheet
from stableviton_core.serving.batch.jobs import Job, combine_folders, name_jobs, read_pairs
from stableviton_core.serving.batch.manifest import MANIFEST, read_manifest
from stableviton_core.serving.batch.node_bindings import (
    bind_nodes,
    fill_graph,
    find_graph_problems,
    hash_graph,
    override_inputs,
)
from stableviton_core.serving.batch.server_pool import run_batch

ROOT = Path(__file__).resolve().parents[2]
ROLES = ("garment", "person")


def write_image(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 16), colour).save(path, format="PNG")
    return path


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """Three persons and four garments."""
    for index in range(3):
        write_image(tmp_path / "persons" / f"p{index}.png", f"#{index}00000")
    for index in range(4):
        write_image(tmp_path / "garments" / f"g{index}.png", f"#00{index}000")
    return tmp_path / "persons", tmp_path / "garments"


@pytest.fixture
def jobs(folders) -> list[Job]:
    return combine_folders(*folders, {}, seed=7)


@pytest.fixture(autouse=True)
def shorten_waits(monkeypatch):
    monkeypatch.setattr(retry_policy, "BACKOFF", 0.01)
    monkeypatch.setattr(client, "POLL_AFTER", 0.3)


def lines(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / MANIFEST).read_text().splitlines()]


# Lists and names


def test_every_person_in_every_garment(folders, jobs):
    assert [job.name for job in jobs[:5]] == ["p0+g0", "p0+g1", "p0+g2", "p0+g3", "p1+g0"]
    assert len(jobs) == 12 and {job.seed for job in jobs} == {7}
    masks = folders[0].parent / "masks"
    for index in range(3):
        write_image(masks / f"p{index}_mask.png")
    with_masks = combine_folders(*folders, {"mask": masks}, seed=0)
    assert with_masks[4].images["mask"] == masks / "p1_mask.png"
    (masks / "p2_mask.png").unlink()
    with pytest.raises(
        StableVITONError, match="expected one mask for p2.png.*p2 or p2_mask; found 0"
    ):
        combine_folders(*folders, {"mask": masks}, seed=0)


def test_pairs_are_read_beside_their_file(tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text("person,garment,seed\na/1.png,b/2.png,\na/1.png,b/3.png,5\n")
    first, second = read_pairs(file, seed=9)
    assert first.images == {"person": tmp_path / "a/1.png", "garment": tmp_path / "b/2.png"}
    assert (first.seed, second.seed) == (9, 5)
    for text, message in (
        ("", "an empty file"),
        ("person,cloth\n", "got 'person', 'cloth'"),
        ("person,garment\na.png\n", "line 2: expected person, garment"),
        ("person,garment,seed\na,b,x\n", "line 2: the seed"),
        ("person,garment\n", "names no pairs"),
        ("person,garment\na,b\na,b\n", "is there twice"),
    ):
        file.write_text(text)
        with pytest.raises(StableVITONError, match=message):
            read_pairs(file, seed=0)


def test_names_are_safe_and_unique(tmp_path):
    odd = ["../x.png", "a b.png", "ü漢字.png", "x" * 300 + ".png", "one/s.png", "two/S.png"]
    odd += [os.fsdecode(b"\xff.png"), "line\u2028.png"]
    listed = [({"person": Path(p), "garment": Path("g.png")}, 0) for p in odd]
    names = [job.name for job in name_jobs(listed)]
    assert len({name.casefold() for name in names}) == len(odd)
    assert names[2] == "ü漢字+g", "letters of any script stay"
    for name in names:
        assert (tmp_path / f"{name}.png").parent == tmp_path and not name.startswith(".")
        (tmp_path / f"{name}.png").write_bytes(b"")
    assert names == [job.name for job in name_jobs(listed)], "the same in the next run"


# Graphs


def test_overrides_are_checked():
    graph = json.loads(json.dumps(GRAPH))
    override_inputs(graph, ["Sampler.steps=3", "3.mode=good"])
    assert graph["3"]["inputs"]["steps"] == 3 and graph["3"]["inputs"]["mode"] == "good"
    for wrong, message in (
        ("steps=3", "NODE.INPUT=VALUE"),
        ("Nobody.steps=3", "title 'Nobody'"),
        ("Sampler.stops=3", "no input 'stops'"),
        ("Sampler.person=3", "linked"),
    ):
        with pytest.raises(StableVITONError, match=message):
            override_inputs(graph, [wrong])


def test_a_graph_is_checked_before_anything_is_queued():
    graph = json.loads(json.dumps(GRAPH))
    bindings = bind_nodes(graph, INFO, ROLES, {})
    assert find_graph_problems(graph, INFO, bindings) == []
    graph["3"]["inputs"] |= {"steps": 1000, "mode": "best", "person": ["9", 0]}
    del graph["4"]["inputs"]["filename_prefix"]
    text = "\n".join(find_graph_problems(graph, INFO, bindings))
    for part in (
        "steps is 1000",
        "'best', but can be fast, good",
        "node '9'",
        "'filename_prefix' is missing",
    ):
        assert part in text


def test_the_nodes_are_found_by_title_or_name():
    graph = json.loads(json.dumps(GRAPH))
    bindings = bind_nodes(graph, INFO, ROLES, {})
    assert bindings.images == {"person": ("1", "image"), "garment": ("2", "image")}
    assert bindings.seeds == [("3", "seed")] and bindings.result == "4"
    filled = fill_graph(graph, bindings, {"person": "p.png", "garment": "g.png"}, 42)
    assert filled["1"]["inputs"]["image"] == "p.png" and filled["3"]["inputs"]["seed"] == 42
    assert graph["1"]["inputs"]["image"] == "a.png", "the graph itself is unchanged"
    assert hash_graph(filled, bindings) == hash_graph(graph, bindings)
    graph["1"]["_meta"]["title"] = "Model"
    assert bind_nodes(graph, INFO, ROLES, {"person": "Model"}).images["person"] == ("1", "image")
    with pytest.raises(StableVITONError, match="--person-node"):
        bind_nodes(graph, INFO, ROLES, {})
    graph["1"]["_meta"]["title"], graph["3"]["_meta"]["title"] = "Person", "Garment"
    graph["2"]["_meta"]["title"] = "Mask"
    with pytest.raises(StableVITONError, match="loads no image"):
        bind_nodes(graph, INFO, ROLES, {})
    with pytest.raises(StableVITONError, match="has a node 'Mask', and the pairs give no mask"):
        bind_nodes(graph, INFO, ("person",), {"garment": "1"})


# Servers that fail


def test_two_servers_share_the_work_and_images_are_uploaded_once(jobs, tmp_path):
    with run_fake_server(latency=0.02) as one, run_fake_server(latency=0.02) as two:
        outcome = run_jobs(jobs, [one.url, two.url], tmp_path / "out")
        assert (len(outcome.results), outcome.failed, outcome.left) == (12, {}, 0)
        assert len(one.prompts) + len(two.prompts) == 12 and min(
            map(len, (one.prompts, two.prompts))
        )
        for server in (one, two):
            assert len(server.uploads) == len(set(server.uploads)) <= 7
        again = run_jobs(jobs, [one.url], tmp_path / "out")
        assert len(again.results) == 12 and len(one.prompts) + len(two.prompts) == 12, (
            "nothing is made twice"
        )
    entries = lines(tmp_path / "out")
    assert sorted(entry["pair"] for entry in entries) == sorted(job.name for job in jobs)
    assert all(entry["error"] is None and entry["seconds"] > 0 for entry in entries)
    files = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert files == {f"{job.name}.png" for job in jobs}


@pytest.mark.parametrize("fault", ["status 500", "garbage", "closed websocket"])
def test_a_server_that_fails_for_a_while_is_tried_again(jobs, tmp_path, fault):
    with run_fake_server(fault=fault, faulty=range(2, 4)) as server:
        outcome = run_jobs(jobs, [server.url], tmp_path / "out")
        assert (len(outcome.results), outcome.failed) == (12, {})
        assert len(server.prompts) <= 12 + 2, "retries are bounded"


@pytest.mark.parametrize("fault", ["status 500", "garbage"])
def test_a_server_that_always_fails_is_dropped(jobs, tmp_path, fault):
    with run_fake_server(fault=fault) as bad, run_fake_server() as good:
        outcome = run_jobs(jobs, [bad.url, good.url], tmp_path / "both")
        assert (len(outcome.results), outcome.failed, outcome.left) == (12, {}, 0)
        assert (
            len(bad.prompts) <= retry_policy.MAX_WORKER_FAILURES + retry_policy.PROMPTS_PER_WORKER
        )
        alone = run_jobs(jobs, [bad.url], tmp_path / "alone")
        assert len(alone.results) == 0 and alone.left + len(alone.failed) == 12
        finished = run_jobs(jobs, [good.url], tmp_path / "alone")
        assert len(finished.results) == 12, "another run goes on"


@pytest.mark.parametrize("fault", ["error", "no image"])
def test_a_graph_that_fails_is_tried_on_another_server(jobs, tmp_path, fault):
    with run_fake_server(fault=fault) as bad, run_fake_server(latency=0.01) as good:
        outcome = run_jobs(jobs[:4], [bad.url, good.url], tmp_path / "both")
        assert (len(outcome.results), outcome.failed) == (4, {})
        alone = run_jobs(jobs[:4], [bad.url], tmp_path / "alone")
        assert len(alone.results) == 0 and len(alone.failed) == 4 and alone.left == 0
        assert len([entry for entry in lines(tmp_path / "alone") if entry["error"]]) == 4


def test_a_slow_prompt_is_cancelled(jobs, tmp_path):
    with run_fake_server(latency=5) as server:
        outcome = run_jobs(jobs[:1], [server.url], tmp_path / "out", timeout=0.3)
        assert "longer than --timeout" in outcome.failed["p0+g0"]
        assert len(server.cancelled) == 1


def test_servers_that_cannot_run_the_graph_are_reported_at_once(jobs, tmp_path):
    foreign = json.loads(json.dumps(GRAPH))
    foreign["3"]["class_type"] = "StableVITONLoader"
    with run_fake_server() as server:
        with pytest.raises(StableVITONError, match="no node StableVITONLoader. Install the pack"):
            asyncio.run(run_batch(jobs, foreign, [server.url], tmp_path, {}, 5))
        with pytest.raises(StableVITONError, match="No ComfyUI answers"):
            run_jobs(jobs, ["http://127.0.0.1:9"], tmp_path)
        outcome = run_jobs(jobs[:2], ["http://127.0.0.1:9", server.url], tmp_path / "out")
        assert len(outcome.results) == 2, "it goes on without the one that is down"


def test_an_unreadable_image_fails_only_its_own_pairs(jobs, folders, tmp_path):
    (folders[1] / "g3.png").write_bytes(b"no image")
    with run_fake_server() as server:
        outcome = run_jobs(jobs, [server.url], tmp_path / "out")
    assert len(outcome.results) == 9 and sorted(outcome.failed) == ["p0+g3", "p1+g3", "p2+g3"]
    assert str(folders[1] / "g3.png") in outcome.failed["p0+g3"]


def test_what_changed_is_made_again(jobs, folders, tmp_path):
    with run_fake_server() as server:
        run_jobs(jobs[:3], [server.url], tmp_path / "out")
        write_image(folders[1] / "g0.png", "white")
        (tmp_path / "out" / "p0+g1.png").unlink()
        run_jobs(jobs[:3], [server.url], tmp_path / "out")
        assert len(server.prompts) == 3 + 2
        other = json.loads(json.dumps(GRAPH))
        other["3"]["inputs"]["steps"] = 5
        asyncio.run(run_batch(jobs[:3], other, [server.url], tmp_path / "out", {}, 5))
        assert len(server.prompts) == 5 + 3


def test_a_file_is_done_only_with_what_it_holds_now(folders, tmp_path):
    """Seed 0, seed 1, seed 0 again: the file of the first run is no more."""
    with run_fake_server() as server:
        for seed, prompts in ((0, 1), (1, 2), (0, 3), (0, 3)):
            jobs = combine_folders(*folders, {}, seed)[:1]
            assert len(run_jobs(jobs, [server.url], tmp_path / "out").results) == 1
            assert len(server.prompts) == prompts
            assert server.prompts[-1]["3"]["inputs"]["seed"] == seed


def test_a_server_that_starts_again_is_waited_for(jobs, tmp_path, monkeypatch):
    """Down for longer than a few failures in a row would take."""
    monkeypatch.setattr(retry_policy, "BACKOFF", 0.1)
    with run_fake_server(latency=0.05, down=(0.2, 1.5)) as server:
        outcome = run_jobs(jobs, [server.url], tmp_path / "out")
        assert (len(outcome.results), outcome.failed, outcome.left) == (12, {}, 0)


def test_dead_servers_do_not_use_up_a_jobs_attempts(jobs, tmp_path):
    with (
        run_fake_server(fault="status 500") as one,
        run_fake_server(fault="status 500") as two,
        run_fake_server(latency=0.05) as good,
    ):
        outcome = run_jobs(jobs, [one.url, two.url, good.url], tmp_path / "out")
        assert (len(outcome.results), outcome.failed) == (12, {})


def test_an_image_that_is_deleted_meanwhile_fails_only_its_own_pairs(jobs, folders, tmp_path):
    with run_fake_server(latency=0.1) as server:
        server.prompts = DeletingList(folders[1] / "g3.png")
        outcome = run_jobs(jobs[:4], [server.url], tmp_path / "out")
    assert len(outcome.results) == 3
    assert "cannot be read any more" in outcome.failed["p0+g3"]


class DeletingList(list):
    """Deletes a file when the first item is appended."""

    def __init__(self, file: Path):
        super().__init__()
        self.file = file

    def append(self, prompt: dict) -> None:
        self.file.unlink(missing_ok=True)
        super().append(prompt)


def test_pairs_must_give_the_same_images(folders, tmp_path):
    jobs = combine_folders(*folders, {}, seed=0)
    jobs[1] = Job("odd", {"person": jobs[0].images["person"]}, 0)
    with run_fake_server() as server:
        with pytest.raises(StableVITONError, match="odd gives no garment"):
            run_jobs(jobs, [server.url], tmp_path / "out")
        with pytest.raises(StableVITONError, match="the seed of .* is -1; seeds are 0 to"):
            combine_folders(*folders, {}, seed=-1)
        for address in ("127.0.0.1:8188", "http://127.0.0.1:port"):
            with pytest.raises(StableVITONError, match="address"):
                run_jobs(jobs, [address], tmp_path / "out")


def test_a_result_that_is_no_image_is_refused(jobs, tmp_path):
    with run_fake_server(fault="no png") as server:
        outcome = run_jobs(jobs[:2], [server.url], tmp_path / "out")
    assert not outcome.results and not list((tmp_path / "out").glob("*.png"))


def test_a_cut_off_line_of_the_manifest_is_skipped(jobs, tmp_path):
    with run_fake_server() as server:
        run_jobs(jobs[:2], [server.url], tmp_path / "out")
        file = tmp_path / "out" / MANIFEST
        file.write_bytes(file.read_bytes()[:-30])
        run_jobs(jobs[:3], [server.url], tmp_path / "out")
        assert len(server.prompts) == 4
    entries = read_manifest(tmp_path / "out")
    assert sorted(entry.pair for entry in entries.values()) == ["p0+g0", "p0+g1", "p0+g2"]


def test_a_full_disk_is_a_clear_error(jobs, tmp_path, monkeypatch):
    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with run_fake_server() as server:
        with pytest.raises(StableVITONError, match="No space left.*Make room and start again"):
            run_jobs(jobs, [server.url], tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.png*"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_cancels_the_prompts_of_this_batch_and_no_others(folders, tmp_path, number):
    with run_fake_server(latency=1.0) as server:
        server.queue.append("somebody else's")
        process = start_batch(folders, server.url, tmp_path / "out")
        deadline = time.monotonic() + 60
        while len(server.prompts) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        _, log = process.communicate(timeout=30)
        assert process.returncode == 130 and "start again to go on" in log
        assert server.queue == ["somebody else's"] and server.cancelled
    assert not list((tmp_path / "out").glob("*.partial"))


def test_the_contact_sheet_shows_all_results(jobs, tmp_path):
    results = {job.name: write_image(tmp_path / f"{job.name}.png", "blue") for job in jobs[:-1]}
    with Image.open(write_contact_sheet(jobs, results, tmp_path)) as sheet:
        assert sheet.size == (5 * 144, 4 * 192)
        assert sheet.getpixel((144 + 72, 192 + 96))[2] > 240, "a result"
        corner = sheet.getpixel((4 * 144 + 72, 3 * 192 + 96))
        assert corner[0] > corner[2] + 50, "a cross where there is none"


# Several seeds


def test_the_seed_with_the_best_score_is_kept(jobs, tmp_path):
    first, second = (replace(job, candidates=3) for job in jobs[:2])
    with run_fake_server(scores={7: 0.5, 8: 0.9, 9: 0.7}) as server:
        outcome = run_jobs([first, second], [server.url], tmp_path / "out", graph=SCORED_GRAPH)
        assert len(outcome.results) == 2 and len(server.prompts) == 6
        assert sorted(p["3"]["inputs"]["seed"] for p in server.prompts) == [7, 7, 8, 8, 9, 9]
        run_jobs([first, second], [server.url], tmp_path / "out", graph=SCORED_GRAPH)
        assert len(server.prompts) == 6, "nothing is made twice"
        run_jobs([replace(first, candidates=1)], [server.url], tmp_path / "out", graph=SCORED_GRAPH)
        assert len(server.prompts) == 7, "the best of three is not the result of one seed"
    *entries, single = lines(tmp_path / "out")
    for entry in entries:
        assert (entry["seed"], entry["kept_seed"], entry["score"]) == (7, 8, 0.9)
        assert entry["report"] == "report of 8"
        assert entry["scores"] == {"7": 0.5, "8": 0.9, "9": 0.7}
    assert (single["kept_seed"], single["score"], single["scores"]) == (7, 0.5, None)


def test_a_seed_without_a_score_is_the_worst(jobs, tmp_path):
    job = replace(jobs[0], candidates=2)
    with run_fake_server(scores={7: float("nan"), 8: 0.1}) as server:
        run_jobs([job], [server.url], tmp_path / "out", graph=SCORED_GRAPH)
    (entry,) = lines(tmp_path / "out")
    assert (entry["kept_seed"], entry["scores"]) == (8, {"8": 0.1})
    with run_fake_server() as server:
        outcome = run_jobs([job], [server.url], tmp_path / "none", graph=SCORED_GRAPH)
    assert "without a score" in outcome.failed["p0+g0"] and not list(tmp_path.glob("none/*.png"))


def test_several_seeds_need_a_graph_that_scores_them(jobs, tmp_path):
    job = replace(jobs[0], candidates=2)
    with run_fake_server() as server:
        with pytest.raises(StableVITONError, match="exactly one StableVITONScore"):
            run_jobs([job], [server.url], tmp_path / "out")
        too_large = replace(jobs[0], seed=2**32, candidates=2)
        with pytest.raises(StableVITONError, match="the seed of 'Sampler' is 4294967297"):
            run_jobs([too_large], [server.url], tmp_path / "out", graph=SCORED_GRAPH)


def test_manifests_of_earlier_versions_are_read(tmp_path):
    entry = {
        **{"pair": "a+b", "key": "k", "person": "a.png", "garment": "b.png", "seed": 0},
        **{"graph": "g", "server": "s", "started": 1.0, "seconds": 2.0, "files": ["a+b.png"]},
        "error": None,
    }
    (tmp_path / MANIFEST).write_text(json.dumps(entry) + "\n")
    assert read_manifest(tmp_path)["a+b"].score is None
