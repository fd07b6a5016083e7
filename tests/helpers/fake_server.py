"""A fake ComfyUI server with a fixed time per prompt, and faults on request.

For what a real one cannot show: faults in its answers, and the client's own share of the time.
"""

import asyncio
import io
import math
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web
from PIL import Image

UPLOAD = ["a.png"], {"image_upload": True}
INFO = {
    "LoadImage": {"input": {"required": {"image": UPLOAD}}, "output": ["IMAGE", "MASK"]},
    "SaveImage": {
        "input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING"]}},
        "output": [],
    },
    "TestSampler": {
        "input": {
            "required": {
                "person": ["IMAGE"],
                "garment": ["IMAGE"],
                "seed": ["INT", {"min": 0, "max": 2**32}],
                "mode": [["fast", "good"]],
                "steps": ["INT", {"min": 1, "max": 100}],
            }
        },
        "output": ["IMAGE"],
    },
    "StableVITONScore": {"input": {"required": {"tryon": ["IMAGE"]}}, "output": ["FLOAT"]},
}
GRAPH = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}, "_meta": {"title": "Person"}},
    "2": {"class_type": "LoadImage", "inputs": {"image": "b.png"}, "_meta": {"title": "Garment"}},
    "3": {
        "class_type": "TestSampler",
        "_meta": {"title": "Sampler"},
        "inputs": {"person": ["1", 0], "garment": ["2", 0], "seed": 1, "mode": "fast", "steps": 20},
    },
    "4": {
        "class_type": "SaveImage",
        "_meta": {"title": "Result"},
        "inputs": {"images": ["3", 0], "filename_prefix": "x"},
    },
}
SCORED_GRAPH = GRAPH | {"5": {"class_type": "StableVITONScore", "inputs": {"tryon": ["3", 0]}}}


@dataclass
class FakeServer:
    """latency: seconds per prompt. fault: what goes wrong with the prompts numbered in `faulty`, or
    with all: "status 500", "garbage", "closed websocket", "no image", "error", "no png". down:
    seconds after the first prompt from and to which every answer is status 502. scores: of the
    results by seed, shown by a node 5. answers: instead of its own, by the start of the path."""

    latency: float = 0.0
    fault: str = ""
    faulty: range | None = None
    down: tuple[float, float] | None = None
    scores: dict[int, float] = field(default_factory=dict)
    answers: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = field(
        default_factory=dict
    )
    first: float = math.inf
    url: str = ""
    prompts: list[dict] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    history: dict[str, dict] = field(default_factory=dict)
    queue: list[str] = field(default_factory=list)
    sockets: dict[str, web.WebSocketResponse] = field(default_factory=dict)
    tasks: list["asyncio.Task[None]"] = field(default_factory=list)

    def is_faulty(self) -> bool:
        return bool(self.fault) and (self.faulty is None or len(self.prompts) in self.faulty)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**30, middlewares=[self.gate])
        self.turn = asyncio.Lock()
        self.image = encode_png()
        app.add_routes(
            [
                web.get("/object_info", self.object_info),
                web.post("/upload/image", self.upload),
                web.post("/prompt", self.prompt),
                web.get("/history/{id}", self.record),
                web.get("/queue", self.waiting),
                web.post("/queue", self.delete),
                web.post("/interrupt", self.interrupt),
                web.get("/view", self.view),
                web.get("/ws", self.events),
            ]
        )
        return app

    @web.middleware
    async def gate(self, request: web.Request, handler) -> web.StreamResponse:
        passed = time.monotonic() - self.first
        if self.down and self.down[0] < passed < self.down[1]:
            return web.Response(status=502, text="restarting")
        self.requests.append(request.path)
        for path, answer in self.answers.items():
            if request.path.startswith(path):
                return await answer(request)
        return await handler(request)

    async def object_info(self, request: web.Request) -> web.Response:
        return web.json_response(INFO)

    async def upload(self, request: web.Request) -> web.Response:
        fields = await request.post()
        self.uploads.append(fields["image"].filename)
        return web.json_response(
            {"name": fields["image"].filename, "subfolder": fields["subfolder"], "type": "input"}
        )

    async def prompt(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.prompts.append(body["prompt"])
        self.first = min(self.first, time.monotonic())
        if self.is_faulty() and self.fault == "status 500":
            return web.Response(status=500, text="out of order")
        if self.is_faulty() and self.fault == "garbage":
            return web.Response(text="<html>hello</html>")
        identity = body.get("prompt_id") or uuid.uuid4().hex
        self.queue.append(identity)
        fault = self.fault if self.is_faulty() else ""
        self.tasks.append(asyncio.create_task(self.work(identity, body, fault)))
        return web.json_response({"prompt_id": identity})

    async def work(self, identity: str, body: dict, fault: str) -> None:
        async with self.turn:  # one prompt at a time
            await asyncio.sleep(self.latency)
            if identity not in self.queue:
                return
            self.queue.remove(identity)
            outputs = {"4": {"images": [{"filename": "x.png", "subfolder": "", "type": "output"}]}}
            status = {"status_str": "success", "messages": []}
            seed = body["prompt"].get("3", {}).get("inputs", {}).get("seed")
            if seed in self.scores:
                outputs["5"] = {"score": [self.scores[seed]], "text": [f"report of {seed}"]}
            if fault == "no image":
                outputs = {}
            if fault == "error":
                error = {
                    "node_id": "3",
                    "node_type": "TestSampler",
                    "exception_message": "no",
                    "exception_type": "ValueError",
                }
                status = {"status_str": "error", "messages": [["execution_error", error]]}
            prompt = [0, identity, body["prompt"]]
            self.history[identity] = {"outputs": outputs, "status": status, "prompt": prompt}
        socket = self.sockets.get(body["client_id"])
        if socket is not None and not socket.closed:
            if fault == "closed websocket":
                await socket.close()
            else:
                await socket.send_json(
                    {"type": "executing", "data": {"node": None, "prompt_id": identity}}
                )

    async def record(self, request: web.Request) -> web.Response:
        identity = request.match_info["id"]
        entry = self.history.get(identity)
        return web.json_response({} if entry is None else {identity: entry})

    async def waiting(self, request: web.Request) -> web.Response:
        entries = [[0, identity, {}, {}, []] for identity in self.queue]
        return web.json_response({"queue_running": entries[:1], "queue_pending": entries[1:]})

    async def delete(self, request: web.Request) -> web.Response:
        for identity in (await request.json())["delete"]:
            self.cancelled.append(identity)
            if identity in self.queue:
                self.queue.remove(identity)
        return web.Response()

    async def interrupt(self, request: web.Request) -> web.Response:
        return web.Response()

    async def view(self, request: web.Request) -> web.Response:
        return web.Response(body=b"<html>" if self.fault == "no png" else self.image)

    async def events(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        client = request.query["clientId"]
        self.sockets[client] = socket
        async for _ in socket:
            pass
        self.sockets.pop(client, None)
        return socket


def encode_png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (48, 64), "teal").save(stream, format="PNG")
    return stream.getvalue()


@contextmanager
def run_fake_server(**behaviour) -> Iterator[FakeServer]:
    """A fake server in a thread, on a free port. behaviour: fields of FakeServer."""
    fake, ready, loop = FakeServer(**behaviour), threading.Event(), asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        runner = web.AppRunner(fake.app())
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        fake.url = f"http://127.0.0.1:{port}"
        return runner

    def serve() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        ready.set()
        loop.run_forever()
        for task in fake.tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*fake.tasks, return_exceptions=True))
        loop.run_until_complete(runner.cleanup())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield fake
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
