"""The client against a real ComfyUI, with graphs of stock nodes and of TestSteps."""

import asyncio
import io
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from stableviton_core.errors import PromptError, PromptInterrupted, ServerError
from stableviton_core.serving import client
from stableviton_core.serving.install import PACK
from stableviton_core.serving.process import serve


def node(class_type: str, title: str | None = None, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": title or class_type}}


def invert_graph(image: str) -> dict:
    return {
        "load": node("LoadImage", image=image),
        "invert": node("ImageInvert", image=["load", 0]),
        "save": node("SaveImage", "Result", images=["invert", 0], filename_prefix="inverted"),
    }


def steps_graph(steps: int, seconds: float) -> dict:
    return {"steps": node("TestSteps", steps=steps, seconds=seconds)}


def run_on(server, action):
    """The result of `action(session)`, an async function, on the server."""

    async def run():
        async with client.connect(server.url) as session:
            return await action(session)

    return asyncio.run(run())


def run_refused(server, graph: dict) -> str:
    """The message of the PromptError that running the graph raises."""
    with pytest.raises(PromptError) as caught:
        run_on(server, lambda session: client.run(session, graph))
    return str(caught.value)


def test_a_round_trip_gives_the_inverted_image(server, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")

    async def action(session):
        image = await client.upload_image(session, tmp_path / "noise.png", subfolder="some where")
        outputs = await client.run(session, invert_graph(image))
        return image, await client.download(session, outputs["save"]["images"][0])

    image, content = run_on(server, action)
    assert image == "some where/noise.png"
    result = np.asarray(Image.open(io.BytesIO(content))).astype(int)
    # the host rounds down when it saves: 1 - x may end one below
    assert abs(result - (255 - pixels.astype(int))).max() <= 1


def test_an_upload_replaces_the_image_of_that_name(server, tmp_path):
    async def action(session):
        for colour in ("red", "blue"):
            Image.new("RGB", (8, 8), colour).save(tmp_path / "photo.png")
            assert await client.upload_image(session, tmp_path / "photo.png") == "photo.png"
        outputs = await client.run(session, invert_graph("photo.png"))
        return await client.download(session, outputs["save"]["images"][0])

    assert Image.open(io.BytesIO(run_on(server, action))).getpixel((0, 0)) == (255, 255, 0)


def test_a_missing_input_is_named_with_its_node(server):
    graph = invert_graph("example.png")
    graph["invert"] = node("ImageInvert", "Make negative")
    assert "Make negative (ImageInvert): Required input is missing (image)" in run_refused(
        server, graph
    )


def test_an_unknown_choice_is_reported_with_the_choices(server):
    graph = {
        "empty": node("EmptyImage", width=8, height=8, batch_size=1, color=0),
        "scale": node(
            "ImageScale",
            image=["empty", 0],
            upscale_method="magic",
            width=8,
            height=8,
            crop="disabled",
        ),
        "save": node("SaveImage", images=["scale", 0], filename_prefix="x"),
    }
    message = run_refused(server, graph)
    assert "ImageScale: upscale_method is 'magic', but can be nearest-exact, bilinear" in message


def test_an_unknown_node_is_named(server):
    assert "'NoSuchNode' not found" in run_refused(server, {"1": node("NoSuchNode")})


def test_a_failing_node_is_reported_with_its_exception(server):
    graph = {
        "empty": node("EmptyImage", width=8, height=8, batch_size=1, color=0),
        "mask": node("ImageToMask", image=["empty", 0], channel="alpha"),
        "preview": node("MaskPreview", mask=["mask", 0]),
    }
    message = run_refused(server, graph)
    assert message.startswith("ImageToMask failed: ")
    assert "IndexError" in message


def test_progress_is_reported_while_a_prompt_runs(server):
    reports = []
    outputs = run_on(
        server, lambda session: client.run(session, steps_graph(3, 0.3), reports.append)
    )
    assert outputs == {"steps": {"steps": [3]}}
    assert reports[-1] == client.Progress("steps", 3, 3)
    assert [progress.value for progress in reports] == [1, 2, 3]


def test_an_end_whose_event_was_lost_is_found(server, monkeypatch):
    monkeypatch.setattr(client, "POLL_AFTER", 0.3)

    async def action(session):
        prompt = await client.queue_prompt(session, steps_graph(1, 0.5))
        async with client.open_events(session, "another client") as events:
            await events.close()
            return await client.follow(session, events, prompt)

    assert run_on(server, action) == {"steps": {"steps": [1]}}


def test_a_waiting_and_a_running_prompt_can_be_cancelled(server, monkeypatch):
    monkeypatch.setattr(client, "POLL_AFTER", 0.3)

    async def action(session):
        runs = [await client.queue_prompt(session, steps_graph(600, 0.1)) for _ in range(2)]
        async with client.open_events(session, "another client") as events:
            for prompt in reversed(runs):  # the waiting one, then the running one
                assert await client.is_queued(session, prompt)
                await client.cancel(session, prompt)
                with pytest.raises(PromptInterrupted):
                    await client.follow(session, events, prompt)
                assert not await client.is_queued(session, prompt)

    run_on(server, action)


def test_a_cancelled_task_cancels_its_prompt(server):
    async def action(session):
        task = asyncio.create_task(client.run(session, steps_graph(600, 0.1)))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await client.run(session, steps_graph(1, 0))  # the queue goes on

    assert run_on(server, action) == {"steps": {"steps": [1]}}


def test_no_server_is_a_clear_error():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"

    async def action():
        async with client.connect(url) as session:
            await client.fetch_object_info(session)

    with pytest.raises(ServerError, match="No ComfyUI answers"):
        asyncio.run(action())


def test_a_server_that_dies_at_the_start_shows_its_log(comfyui, tmp_path):
    with pytest.raises(ServerError, match="ended by itself.*(?s:.*)--no-such-option"):
        with serve(comfyui, tmp_path, cpu=True, options=["--no-such-option"]):
            pytest.fail("It started.")


def test_the_process_is_gone_after_ctrl_c(comfyui, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with serve(comfyui, tmp_path, cpu=True) as running:
            process = running.process
            assert process.poll() is None
            raise KeyboardInterrupt
    assert process.poll() is not None
    if os.name == "posix":
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups")
def test_the_process_is_gone_after_a_kill_of_ours(comfyui, tmp_path):
    script = (
        "import sys, time; from pathlib import Path; "
        "from stableviton_core.serving.process import serve\n"
        "with serve(Path(sys.argv[1]), Path(sys.argv[2]), cpu=True) as running:\n"
        "    print(running.process.pid, flush=True); time.sleep(100)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, comfyui, tmp_path], cwd=PACK, stdout=subprocess.PIPE
    )
    group = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.1)
