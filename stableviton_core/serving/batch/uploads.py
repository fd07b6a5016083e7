"""Pictures of a batch: read once, known by their contents."""

import asyncio
import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import aiohttp
from PIL import Image

from ...errors import ImageError
from .. import client

SUBFOLDER = "stableviton-batch"  # of the servers' input folders
NOT_A_PICTURE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def digest_of(path: Path) -> str:
    """Of a picture's bytes. ImageError where it cannot be read as an image."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as opened:
            opened.load()
    except NOT_A_PICTURE as error:
        raise ImageError(f"{path} cannot be read as an image: {error}") from error
    return hashlib.sha256(content).hexdigest()


def content_of(path: Path, digest: str) -> bytes:
    """The bytes that had this digest. ImageError where they are gone."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read any more: {error}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise ImageError(f"{path} has changed since the batch began. Start it again.")
    return content


def name_of(path: Path, digest: str) -> str:
    """On the servers: the same for the same contents."""
    return digest[:32] + path.suffix.lower()


class Uploads:
    """What one server has been sent, each picture once."""

    def __init__(self, session: aiohttp.ClientSession):
        self.session = session
        self._sent: dict[str, str] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def send(self, name: str, content: Callable[[], bytes]) -> str:
        """The name by which the server's Load Image nodes find a picture."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            if name not in self._sent:
                self._sent[name] = await client.upload_content(
                    self.session, content(), name, SUBFOLDER
                )
            return self._sent[name]

    def forget(self) -> None:
        """The server may have lost them: it went away."""
        self._sent.clear()
