"""The HTTP and websocket API of one ComfyUI server, as functions on a session.

Every function raises ServerError when the server cannot be reached or answers with something
else than expected, and PromptError where a graph is at fault.
"""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from ..errors import PromptError, PromptInterrupted, ServerError
from .graph import Graph, title_of

_log = logging.getLogger(__name__)

# Seconds without news of a prompt after which the server is asked whether it still has it
POLL_AFTER = 10.0
# An answer that takes longer than this means a server that hangs; runs of a graph may be longer
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)


@dataclass(frozen=True)
class Progress:
    node: str
    value: float
    maximum: float


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A session for the server at `url`, for example http://127.0.0.1:8188."""
    async with new_session(url) as session:
        yield session


def new_session(url: str) -> aiohttp.ClientSession:
    """As `connect`, for the caller to close."""
    return aiohttp.ClientSession(url.rstrip("/") + "/", timeout=_TIMEOUT)


async def upload_image(
    session: aiohttp.ClientSession, path: Path, name: str | None = None, subfolder: str = ""
) -> str:
    """Puts a file into the server's input folder, over one of the same name.

    Returns the name by which a LoadImage node finds it.
    """
    return await upload_content(session, path.read_bytes(), name or path.name, subfolder)


async def upload_content(
    session: aiohttp.ClientSession, content: bytes, name: str, subfolder: str = ""
) -> str:
    """As upload_image, of a file's content."""
    form = aiohttp.FormData()
    form.add_field("image", content, filename=name)
    form.add_field("subfolder", subfolder)
    form.add_field("overwrite", "true")
    stored = await _json(session, "POST", "upload/image", data=form)
    with understood("upload/image"):
        return "/".join(part for part in (stored["subfolder"], stored["name"]) if part)


async def object_info(
    session: aiohttp.ClientSession, class_type: str | None = None
) -> dict[str, Any]:
    """What the server tells of its nodes, or of one of them: {class: description}."""
    path = f"object_info/{class_type}" if class_type else "object_info"
    return await _json(session, "GET", path)


async def queue_prompt(
    session: aiohttp.ClientSession,
    graph: Graph,
    client_id: str | None = None,
    prompt_id: str | None = None,
) -> str:
    """Queues a graph and returns its prompt id, the given one if any. Events go to the websocket
    of `client_id`.

    Raises PromptError with all the server finds wrong when it refuses the graph.
    """
    body: dict[str, Any] = {"prompt": graph}
    body |= {"client_id": client_id} if client_id else {}
    body |= {"prompt_id": prompt_id} if prompt_id else {}
    status, answer = await _call(session, "POST", "prompt", json=body)
    if status not in (200, 400):
        raise ServerError(_unexpected("POST", "prompt", status, answer))
    with understood("prompt"):
        told = json.loads(answer)
        if status == 400:
            raise PromptError(_refusal(told, graph))
        if told.get("node_errors"):
            _log.warning("The server leaves out a part of the graph. %s", _refusal(told, graph))
        return told["prompt_id"]


async def history(session: aiohttp.ClientSession, prompt_id: str) -> dict[str, Any] | None:
    """The record of a prompt that ended: `outputs`, `status`, ...; None while there is none."""
    return (await _json(session, "GET", f"history/{prompt_id}")).get(prompt_id)


async def is_queued(session: aiohttp.ClientSession, prompt_id: str) -> bool:
    """Whether the prompt runs or waits to be run."""
    queue = await _json(session, "GET", "queue")
    with understood("queue"):
        return any(entry[1] == prompt_id for part in queue.values() for entry in part)


async def cancel(session: aiohttp.ClientSession, prompt_id: str) -> None:
    """Stops a prompt, whether it waits or runs; others are left alone."""
    await _answered(session, "POST", "queue", json={"delete": [prompt_id]})
    await _answered(session, "POST", "interrupt", json={"prompt_id": prompt_id})


async def download(session: aiohttp.ClientSession, file: dict[str, str]) -> bytes:
    """An output as it stands in a history: {filename, subfolder, type}."""
    with understood("history"):
        wanted = {key: file[key] for key in ("filename", "subfolder", "type")}
    return await _answered(session, "GET", "view", params=wanted)


@asynccontextmanager
async def open_events(
    session: aiohttp.ClientSession, client_id: str
) -> AsyncIterator["aiohttp.ClientWebSocketResponse[bool]"]:
    """The websocket on which the server tells of the prompts queued with `client_id`."""
    try:
        events = await session.ws_connect("ws", params={"clientId": client_id}, max_msg_size=0)
    except (aiohttp.ClientError, asyncio.TimeoutError) as error:
        raise ServerError(_unreachable("ws", error)) from error
    async with events:
        yield events


async def follow(
    session: aiohttp.ClientSession,
    events: "aiohttp.ClientWebSocketResponse[bool]",
    prompt_id: str,
    on_progress: Callable[[Progress], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Waits for the end of a prompt and returns its outputs by node id.

    The events tell of progress and wake us up; what came of the prompt is read in its history,
    so that nothing hangs on an event that was lost.
    Raises PromptError when a node failed, PromptInterrupted when the prompt was cancelled.
    """
    poll_at = time.monotonic() + POLL_AFTER
    while True:
        event = await _next_event(events, poll_at - time.monotonic())
        if event is not None and event["data"].get("prompt_id") == prompt_id:
            poll_at = time.monotonic() + POLL_AFTER
            data = event["data"]
            with understood("ws"):
                if event["type"] == "progress" and on_progress:
                    on_progress(Progress(str(data["node"]), data["value"], data["max"]))
                ended = event["type"] == "executing" and data["node"] is None
            if ended:
                break
        elif time.monotonic() >= poll_at:
            if not await is_queued(session, prompt_id):
                break
            poll_at = time.monotonic() + POLL_AFTER
    record = await history(session, prompt_id)
    if record is None:
        raise PromptInterrupted("The prompt was taken off the server's queue before it ran.")
    with understood("history"):
        return _outputs(record)


async def run(
    session: aiohttp.ClientSession,
    graph: Graph,
    on_progress: Callable[[Progress], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Queues a graph, waits for its end and returns its outputs by node id.

    When the waiting task is cancelled, or loses the server, so is the prompt. Raises as
    queue_prompt and follow do.
    """
    client_id = uuid.uuid4().hex
    async with open_events(session, client_id) as events:
        prompt_id = str(uuid.uuid4())  # known before the answer, to cancel it at any moment
        try:
            await queue_prompt(session, graph, client_id, prompt_id)
            return await follow(session, events, prompt_id, on_progress)
        except (asyncio.CancelledError, ServerError):
            with suppress(ServerError):  # a server that is gone runs nothing
                await cancel(session, prompt_id)
            raise


async def _next_event(
    events: "aiohttp.ClientWebSocketResponse[bool]", timeout: float
) -> dict[str, Any] | None:
    """The next event, or None when none came in time or a preview picture did."""
    if events.closed:
        await asyncio.sleep(max(timeout, 0))
        return None
    try:
        message = await events.receive(timeout=max(timeout, 0.001))
    except asyncio.TimeoutError:
        return None
    if message.type is not aiohttp.WSMsgType.TEXT:
        return None
    with understood("ws"):
        event = json.loads(message.data)
        return event if isinstance(event["data"], dict) else None


def _outputs(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    status = record.get("status") or {}
    if status.get("status_str") != "error":
        return record["outputs"]
    told = dict(status["messages"])
    if "execution_error" not in told:
        raise PromptInterrupted("The prompt was cancelled while it ran.")
    error = told["execution_error"]
    name = _node_name(record["prompt"][2], error["node_id"], error["node_type"])
    raise PromptError(
        f"{name} failed: {error['exception_message'].strip()} ({error['exception_type']})"
    )


def _refusal(told: dict[str, Any], graph: Graph) -> str:
    lines = []
    for node, found in (told.get("node_errors") or {}).items():
        name = _node_name(graph, node, found["class_type"])
        lines += [f"  {name}: {_reason(error)}" for error in found["errors"]]
    error = told.get("error") or {}
    if lines or not error:
        return "\n".join(["The server finds errors in the graph:", *lines])
    details = f" ({error['details']})" if error.get("details") else ""
    return f"The server refuses the graph: {error['message']}{details}"


def _reason(error: dict[str, Any]) -> str:
    if error["type"] == "value_not_in_list":
        told = error["extra_info"]
        choices = _choices(told.get("input_config"))
        if choices is not None:
            listed = ", ".join(map(str, choices)) or "nothing (the list is empty)"
            name, value = told["input_name"], told["received_value"]
            return f"{name} is {value!r}, but can be {listed}"
    return error["message"] + (f" ({error['details']})" if error.get("details") else "")


def _choices(input_config: list[Any] | None) -> list[Any] | None:
    """The values of a combo input in either of ComfyUI's spellings; None for a list it withheld."""
    if not input_config:
        return None
    kind, *more = input_config
    if isinstance(kind, list):
        return kind
    return more[0].get("options") if more else None


def _node_name(graph: Graph, node: str, class_type: str) -> str:
    title = title_of(graph, node) if node in graph else class_type
    return class_type if title == class_type else f"{title} ({class_type})"


async def _json(
    session: aiohttp.ClientSession, method: str, path: str, **options: Any
) -> dict[str, Any]:
    with understood(path):
        told = json.loads(await _answered(session, method, path, **options))
        if not isinstance(told, dict):
            raise TypeError(f"expected an object, got {type(told).__name__}")
        return told


@contextmanager
def understood(path: str) -> Iterator[None]:
    """ServerError for an answer that is not ComfyUI's."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ServerError(
            f"The answer to /{path} is not ComfyUI's ({type(error).__name__}: {error}). Is this "
            "the address of a ComfyUI?"
        ) from error


async def _answered(
    session: aiohttp.ClientSession, method: str, path: str, **options: Any
) -> bytes:
    status, answer = await _call(session, method, path, **options)
    if status != 200:
        raise ServerError(_unexpected(method, path, status, answer))
    return answer


async def _call(
    session: aiohttp.ClientSession, method: str, path: str, **options: Any
) -> tuple[int, bytes]:
    try:
        async with session.request(method, path, **options) as response:
            return response.status, await response.read()
    except (aiohttp.ClientError, asyncio.TimeoutError) as error:
        raise ServerError(_unreachable(path, error)) from error


def _unreachable(path: str, error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"No ComfyUI answers: {error}. Is it running, and is the address right?"
    return f"ComfyUI did not answer /{path}: {error or type(error).__name__}"


def _unexpected(method: str, path: str, status: int, answer: bytes) -> str:
    text = answer.decode(errors="replace")[:500]
    return f"ComfyUI answered {method} /{path} with status {status}: {text}"
