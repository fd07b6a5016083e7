"""Servers that redirect, send too much, never end, or answer as no ComfyUI does: the client says
so, drops them, and goes on with the others."""

import asyncio
import gzip
import time
from pathlib import Path

import pytest
from aiohttp import web
from PIL import Image

from helpers.batches import run_jobs
from helpers.fake_server import GRAPH, run_fake_server
from helpers.limits import require_limits
from stableviton_core.errors import ServerError
from stableviton_core.serving import client
from stableviton_core.serving.batch import retry_policy
from stableviton_core.serving.batch.jobs import Job, name_jobs

TIMEOUT = 2.0  # long for the good server, also on a busy machine
PATHS = ("/object_info", "/upload/image", "/prompt", "/history", "/queue", "/view", "/ws")


@pytest.fixture(autouse=True)
def shorten_waits(monkeypatch):
    monkeypatch.setattr(retry_policy, "BACKOFF", 0.002)
    monkeypatch.setattr(client, "POLL_AFTER", 0.1)
    monkeypatch.setattr(client, "CALL", 0.5)
    monkeypatch.setattr(client, "CANCEL", 0.2)
    monkeypatch.setattr(client, "OBJECT_INFO", 3.0)  # it is asked for once
    monkeypatch.setattr(client, "MAX_ANSWER", 1 << 20)
    monkeypatch.setattr(client, "MAX_FILE", 1 << 20)


@pytest.fixture
def jobs(tmp_path) -> list[Job]:
    for name in ("p", "a", "b"):
        Image.new("RGB", (12, 16), "red").save(tmp_path / f"{name}.png")
    person = {"person": tmp_path / "p.png"}
    return name_jobs((person | {"garment": tmp_path / f"{name}.png"}, 0) for name in "ab")


def send(body: bytes, status: int = 200, **headers: str):
    async def answer(request: web.Request) -> web.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(body=body, status=status, headers=names)

    return answer


def stream(chunk: bytes, pause: float = 0.0):
    """A body without an end, as fast as it is read or with pauses."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(chunk)
            await asyncio.sleep(pause)

    return answer


async def close(request: web.Request) -> web.Response:
    request.transport.close()
    return web.Response()


NULLS = (
    b'{"name": null, "subfolder": null, "prompt_id": null, "queue_running": 1, "node_errors": 1}'
)
BEHAVIOURS = {
    "garbage": send(b"<html>"),
    "empty": send(b""),
    "deep": send(b"[" * 100_000 + b"]" * 100_000),
    "deep object": send(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "list": send(b"[1, 2]"),
    "null": send(b"null"),
    "empty object": send(b"{}"),
    "null members": send(NULLS),
    "huge number": send(b'{"a": 1' + b"0" * 5000 + b"}"),
    "no UTF-8": send(b'{"a": "\xff\xfe"}'),
    "server error": send(b"out of order", 500),
    "not found": send(b"", 404),
    "bad request": send(b'{"error": {"message": 1}, "node_errors": {"x": []}}', 400),
    "too large": send(b" " * (2 << 20)),
    "compressed bomb": send(gzip.compress(b" " * (64 << 20)), Content_Encoding="gzip"),
    "compressed garbage": send(b"garbage", Content_Encoding="gzip"),
    "endless": stream(b" " * 65536),
    "slow": stream(b" ", 0.05),
    "cut off": send(b"{", Content_Length="100"),
    "closed": close,
}


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("path", [path for path in PATHS if path != "/ws"])
def test_a_hostile_server_is_dropped_and_the_other_goes_on(jobs, tmp_path, path, behaviour):
    """120 servers: each is wrong at one of its paths."""
    latency = 0.4 if path == "/queue" else 0.0  # it is asked for a prompt without news
    with (
        run_fake_server(latency=latency, answers={path: BEHAVIOURS[behaviour]}) as hostile,
        run_fake_server(latency=0.02) as good,
        require_limits(),
    ):
        outcome = run_jobs(jobs, [hostile.url, good.url], tmp_path / "out", TIMEOUT)
    assert any(request.startswith(path) for request in hostile.requests)
    assert len(outcome.results) == 2 and not outcome.failed and not outcome.left
    for file in outcome.results.values():
        assert Image.open(file).size == (48, 64)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("path", PATHS)
def test_no_redirect_is_followed(jobs, tmp_path, path, status):
    """A 307 on the upload would send the user's images to another host."""
    with run_fake_server() as elsewhere:

        async def redirect(request: web.Request) -> web.Response:
            target = elsewhere.url + request.path_qs
            return web.Response(status=status, headers={"Location": target})

        with run_fake_server(answers={path: redirect}) as hostile:
            with run_fake_server(latency=0.02) as good:
                outcome = run_jobs(jobs, [hostile.url, good.url], tmp_path / "out", TIMEOUT)
            with pytest.raises(ServerError, match="redirects .*, which is not followed"):
                asyncio.run(call(hostile.url, path, tmp_path / "p.png"))
    assert len(outcome.results) == 2
    assert not elsewhere.requests


async def call(url: str, path: str, image: Path) -> None:
    async with client.connect(url) as session:
        if path == "/upload/image":
            await client.upload_image(session, image)
        elif path == "/view":
            await client.download(session, {"filename": "x", "subfolder": "", "type": "output"})
        elif path == "/ws":
            async with client.open_events(session, "me"):
                pass
        elif path == "/prompt":
            await client.queue_prompt(session, GRAPH)
        elif path == "/history":
            await client.fetch_history(session, "x")
        elif path == "/queue":
            await client.is_queued(session, "x")
        else:
            await client.fetch_object_info(session)


EVENTS = {
    "deep": "[" * 100_000,
    "null": "null",
    "list": "[]",
    "number for data": '{"data": 1}',
    "no node": '{"type": "progress", "data": {"prompt_id": 1}}',
    "too large": " " * (2 << 20),
    "binary": b"\xff" * (2 << 20),
    "nothing executing": '{"type": "executing", "data": {}}',
}


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_a_websocket_of_nonsense(jobs, tmp_path, event):
    async def flood(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        while not socket.closed:
            await (socket.send_str(event) if isinstance(event, str) else socket.send_bytes(event))
            await asyncio.sleep(0.01)
        return socket

    with (
        run_fake_server(answers={"/ws": flood}) as hostile,
        run_fake_server(latency=0.02) as good,
        require_limits(),
    ):
        outcome = run_jobs(jobs, [hostile.url, good.url], tmp_path / "out", TIMEOUT)
    assert len(outcome.results) == 2


@pytest.mark.parametrize("path", ["/upload/image", "/prompt", "/history", "/view"])
def test_the_timeout_bounds_the_whole_job(jobs, tmp_path, path):
    """A byte now and then would keep a limit on each read from ever being reached."""
    start = time.monotonic()
    with run_fake_server(answers={path: stream(b" ", 0.05)}) as slow:
        outcome = run_jobs(jobs[:1], [slow.url], tmp_path / "out", timeout=0.5)
    assert not outcome.results and time.monotonic() - start < 20


def test_a_server_that_is_too_slow_is_said(monkeypatch):
    monkeypatch.setattr(client, "OBJECT_INFO", 0.2)
    with run_fake_server(answers={"/object_info": stream(b" ", 0.05)}) as server:
        with pytest.raises(ServerError, match="did not answer /object_info in time"):
            asyncio.run(call(server.url, "/object_info", Path()))


def test_what_is_too_large_is_said(tmp_path):
    with run_fake_server(answers={"/view": stream(b"x" * 65536)}) as server:
        with pytest.raises(ServerError, match="/view is larger than 1 MiB"):
            asyncio.run(call(server.url, "/view", tmp_path))
    with run_fake_server(answers={"/object_info": send(b" " * (2 << 20))}) as server:
        with pytest.raises(ServerError, match="/object_info is larger than 1 MiB"):
            asyncio.run(call(server.url, "/object_info", tmp_path))
