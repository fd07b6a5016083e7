"""The HTTP and websocket API of one ComfyUI server, as functions on a session.

Every function raises ServerError when the server cannot be reached or its answer is not
ComfyUI's, and PromptError when the graph is at fault.
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

from ..errors import (
    MALFORMED,
    SHOWN_AS,
    PromptError,
    PromptInterrupted,
    ServerError,
    StableVITONError,
)
from .graph import Graph, get_title

_log = logging.getLogger(__name__)

POLL_AFTER = 10.0  # seconds without an event of a prompt until the queue is polled for it
MAX_ANSWER = 64 << 20  # bytes of JSON, and of an event
MAX_FILE = 512 << 20  # bytes of a result
CALL, CANCEL = 60.0, 10.0  # seconds for a call that waits for no prompt and sends no image
OBJECT_INFO = 120.0
# of one read; a prompt, an upload and a download may take longer
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)


@dataclass(frozen=True)
class Progress:
    node: str
    value: float
    maximum: float


def connect(url: str) -> aiohttp.ClientSession:
    """A session with the server at `url`, such as http://127.0.0.1:8188, for `async with`.

    It follows no redirect: images would be sent to another server than the one that was named.
    """
    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(_refuse_redirect)  # the websocket's, which takes no option
    return aiohttp.ClientSession(url.rstrip("/") + "/", timeout=_TIMEOUT, trace_configs=[trace])


async def _refuse_redirect(
    session: aiohttp.ClientSession, context: object, params: aiohttp.TraceRequestRedirectParams
) -> None:
    raise ServerError(_describe_redirect(params.url.path, params.response))


def _describe_redirect(path: str, response: aiohttp.ClientResponse) -> str:
    target = response.headers.get("Location", "")[:200]
    return (
        f"The server redirects /{path.lstrip('/')} to {target!r}, which is not followed. Name the "
        "address of a ComfyUI itself."
    )


async def upload_image(
    session: aiohttp.ClientSession, path: Path, name: str | None = None, subfolder: str = ""
) -> str:
    """Store a file in the server's input folder, replacing one of the same name.

    Returns the value for the `image` input of a LoadImage node.
    """
    return await upload_bytes(session, path.read_bytes(), name or path.name, subfolder)


async def upload_bytes(
    session: aiohttp.ClientSession, content: bytes, name: str, subfolder: str = ""
) -> str:
    """As `upload_image`, given the file's content."""
    form = aiohttp.FormData()
    form.add_field("image", content, filename=name)
    form.add_field("subfolder", subfolder)
    form.add_field("overwrite", "true")
    stored = await _request_json(session, "POST", "upload/image", data=form, timeout=_TIMEOUT)
    with expect_valid_answer("upload/image"):
        subfolder, name = _expect_text(stored["subfolder"]), _expect_text(stored["name"])
        return f"{subfolder}/{name}" if subfolder else name


async def fetch_object_info(session: aiohttp.ClientSession) -> dict[str, Any]:
    """Descriptions of the server's node classes, by class."""
    return await _request_json(session, "GET", "object_info", timeout=_limit(OBJECT_INFO))


async def queue_prompt(
    session: aiohttp.ClientSession,
    graph: Graph,
    client_id: str | None = None,
    prompt_id: str | None = None,
) -> str:
    """Queue a graph and return its prompt id: `prompt_id`, or one the server chooses. Events are
    sent to the websocket of `client_id`.

    PromptError with all validation errors when the server refuses the graph.
    """
    body: dict[str, Any] = {"prompt": graph}
    body |= {"client_id": client_id} if client_id else {}
    body |= {"prompt_id": prompt_id} if prompt_id else {}
    status, answer = await _send(session, "POST", "prompt", json=body)
    if status not in (200, 400):
        raise ServerError(_describe_status("POST", "prompt", status, answer))
    with expect_valid_answer("prompt"):
        body = json.loads(answer)
        if status == 400:
            raise PromptError(_describe_refusal(body, graph))
        if body.get("node_errors"):
            _log.warning("A part of the graph is not run. %s", _describe_refusal(body, graph))
        return body["prompt_id"]


async def fetch_history(session: aiohttp.ClientSession, prompt_id: str) -> dict[str, Any] | None:
    """The record of a prompt that has ended (`outputs`, `status`, ...); None before."""
    return (await _request_json(session, "GET", f"history/{prompt_id}")).get(prompt_id)


async def is_queued(session: aiohttp.ClientSession, prompt_id: str) -> bool:
    """Whether the prompt is running or waiting."""
    queue = await _request_json(session, "GET", "queue")
    with expect_valid_answer("queue"):
        return any(entry[1] == prompt_id for part in queue.values() for entry in part)


async def cancel(session: aiohttp.ClientSession, prompt_id: str) -> None:
    """Stop a prompt, waiting or running, and no other."""
    limit = _limit(CANCEL)
    await _request(session, "POST", "queue", json={"delete": [prompt_id]}, timeout=limit)
    await _request(session, "POST", "interrupt", json={"prompt_id": prompt_id}, timeout=limit)


async def download(session: aiohttp.ClientSession, file: dict[str, str]) -> bytes:
    """The content of an output file, given as in a history: {filename, subfolder, type}."""
    with expect_valid_answer("history"):
        query = {key: _expect_text(file[key]) for key in ("filename", "subfolder", "type")}
    return await _request(
        session, "GET", "view", params=query, timeout=_TIMEOUT, max_bytes=MAX_FILE
    )


@asynccontextmanager
async def open_events(
    session: aiohttp.ClientSession, client_id: str
) -> AsyncIterator["aiohttp.ClientWebSocketResponse[bool]"]:
    """The websocket with the events of the prompts queued with `client_id`."""
    try:
        events = await session.ws_connect(
            "ws", params={"clientId": client_id}, max_msg_size=MAX_ANSWER
        )
    except (aiohttp.ClientError, asyncio.TimeoutError) as error:
        raise ServerError(_describe_no_answer("ws", error)) from error
    async with events:
        yield events


async def follow(
    session: aiohttp.ClientSession,
    events: "aiohttp.ClientWebSocketResponse[bool]",
    prompt_id: str,
    on_progress: Callable[[Progress], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Wait for the end of a prompt and return its outputs by node id.

    Events only report progress and shorten the wait: outputs are read from the prompt's history,
    and after POLL_AFTER seconds without an event the queue is polled, so a lost event or a closed
    websocket does no harm.
    PromptError when a node failed, PromptInterrupted when the prompt was cancelled.
    """
    poll_at = time.monotonic() + POLL_AFTER
    while True:
        event = await _next_event(events, poll_at - time.monotonic())
        if event is not None and event["data"].get("prompt_id") == prompt_id:
            poll_at = time.monotonic() + POLL_AFTER
            data = event["data"]
            with expect_valid_answer("ws"):
                if event["type"] == "progress" and on_progress:
                    on_progress(Progress(str(data["node"]), data["value"], data["max"]))
                ended = event["type"] == "executing" and data["node"] is None
            if ended:
                break
        elif time.monotonic() >= poll_at:
            if not await is_queued(session, prompt_id):
                break
            poll_at = time.monotonic() + POLL_AFTER
    record = await fetch_history(session, prompt_id)
    if record is None:
        raise PromptInterrupted("The prompt was taken off the server's queue before it ran.")
    with expect_valid_answer("history"):
        return _read_outputs(record)


async def run(
    session: aiohttp.ClientSession,
    graph: Graph,
    on_progress: Callable[[Progress], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Queue a graph, wait for its end and return its outputs by node id.

    The prompt is cancelled when this task is, and when the connection fails. Errors as of
    `queue_prompt` and `follow`.
    """
    client_id = uuid.uuid4().hex
    async with open_events(session, client_id) as events:
        prompt_id = str(uuid.uuid4())  # chosen here, to cancel it even before the server answers
        try:
            await queue_prompt(session, graph, client_id, prompt_id)
            return await follow(session, events, prompt_id, on_progress)
        except (asyncio.CancelledError, ServerError):
            with suppress(ServerError):  # the server may be gone
                await cancel(session, prompt_id)
            raise


async def _next_event(
    events: "aiohttp.ClientWebSocketResponse[bool]", timeout: float
) -> dict[str, Any] | None:
    """The next event; None when none came within `timeout` seconds, or a binary preview did."""
    if events.closed:
        await asyncio.sleep(max(timeout, 0))
        return None
    try:
        message = await events.receive(timeout=max(timeout, 0.001))
    except asyncio.TimeoutError:
        return None
    if message.type is not aiohttp.WSMsgType.TEXT:
        return None
    with expect_valid_answer("ws"):
        event = json.loads(message.data)
        return event if isinstance(event["data"], dict) else None


def _read_outputs(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    status = record.get("status") or {}
    if status.get("status_str") != "error":
        return record["outputs"]
    messages = dict(status["messages"])
    if "execution_error" not in messages:
        raise PromptInterrupted("The prompt was cancelled while it ran.")
    error = messages["execution_error"]
    name = _describe_node(record["prompt"][2], error["node_id"], error["node_type"])
    message, kind = error["exception_message"].strip(), error["exception_type"]
    raise PromptError(f"{name} failed: {message}" + (f" ({kind})" if kind != SHOWN_AS else ""))


def _describe_refusal(body: dict[str, Any], graph: Graph) -> str:
    lines = []
    for node, entry in (body.get("node_errors") or {}).items():
        name = _describe_node(graph, node, entry["class_type"])
        lines += [f"  {name}: {_describe_input_error(error)}" for error in entry["errors"]]
    error = body.get("error") or {}
    if lines or not error:
        return "\n".join(["The server finds errors in the graph:", *lines])
    details = f" ({error['details']})" if error.get("details") else ""
    return f"The server refuses the graph: {error['message']}{details}"


def _describe_input_error(error: dict[str, Any]) -> str:
    if error["type"] == "value_not_in_list":
        info = error["extra_info"]
        choices = _find_choices(info.get("input_config"))
        if choices is not None:
            listed = ", ".join(map(str, choices)) or "nothing (the list is empty)"
            name, value = info["input_name"], info["received_value"]
            return f"{name} is {value!r}, but can be {listed}"
    return error["message"] + (f" ({error['details']})" if error.get("details") else "")


def _find_choices(input_config: list[Any] | None) -> list[Any] | None:
    """The values of a combo input in either of ComfyUI's formats; None where it sends none."""
    if not input_config:
        return None
    kind, *more = input_config
    if isinstance(kind, list):
        return kind
    return more[0].get("options") if more else None


def _describe_node(graph: Graph, node: str, class_type: str) -> str:
    title = get_title(graph, node) if node in graph else class_type
    return class_type if title == class_type else f"{title} ({class_type})"


async def _request_json(
    session: aiohttp.ClientSession, method: str, path: str, **options: Any
) -> dict[str, Any]:
    with expect_valid_answer(path):
        answer = json.loads(await _request(session, method, path, **options))
        if not isinstance(answer, dict):
            raise TypeError(f"expected an object, got {type(answer).__name__}")
        return answer


@contextmanager
def expect_valid_answer(path: str) -> Iterator[None]:
    """Turn errors in reading an answer into ServerError: it is not ComfyUI's."""
    try:
        yield
    except StableVITONError:
        raise
    except MALFORMED as error:
        raise ServerError(
            f"The answer to /{path} is not ComfyUI's ({type(error).__name__}: {error}). Is this "
            "the address of a ComfyUI?"
        ) from error


async def _request(session: aiohttp.ClientSession, method: str, path: str, **options: Any) -> bytes:
    status, answer = await _send(session, method, path, **options)
    if status != 200:
        raise ServerError(_describe_status(method, path, status, answer))
    return answer


async def _send(
    session: aiohttp.ClientSession,
    method: str,
    path: str,
    max_bytes: int | None = None,
    timeout: aiohttp.ClientTimeout | None = None,
    **options: Any,
) -> tuple[int, bytes]:
    """The status and the body of an answer. timeout: for the whole call, CALL seconds by default.
    ServerError where there is no answer, a redirect, or a body of more than max_bytes, by default
    MAX_ANSWER."""
    options |= {"allow_redirects": False, "timeout": timeout or _limit(CALL)}
    try:
        async with session.request(method, path, **options) as response:
            if 300 <= response.status < 400:
                raise ServerError(_describe_redirect(path, response))
            return response.status, await _read_body(response, path, max_bytes or MAX_ANSWER)
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
        raise ServerError(_describe_no_answer(path, error)) from error


async def _read_body(response: aiohttp.ClientResponse, path: str, max_bytes: int) -> bytes:
    content = bytearray()
    if (response.content_length or 0) <= max_bytes:
        async for chunk in response.content.iter_any():
            content += chunk
            if len(content) > max_bytes:
                break
        else:
            return bytes(content)
    raise ServerError(f"The answer to /{path} is larger than {max_bytes >> 20} MiB.")


def _limit(seconds: float) -> aiohttp.ClientTimeout:
    """For a whole call."""
    return aiohttp.ClientTimeout(total=seconds, sock_connect=10)


def _expect_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {type(value).__name__}")
    return value


def _describe_no_answer(path: str, error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"No ComfyUI answers: {error}. Is it running, and is the address right?"
    if isinstance(error, asyncio.TimeoutError):
        which = f" ({error})" if str(error) else ""  # of a connection or a read
        return f"ComfyUI did not answer /{path} in time{which}. Is it busy, or the network slow?"
    return f"ComfyUI did not answer /{path}: {str(error) or type(error).__name__}"


def _describe_status(method: str, path: str, status: int, answer: bytes) -> str:
    text = answer.decode(errors="replace")[:500]
    return f"ComfyUI answered {method} /{path} with status {status}: {text}"
