"""Pictures of a batch: read once, known by their contents."""

import asyncio
import hashlib
import io
from pathlib import Path

import aiohttp
from PIL import Image, UnidentifiedImageError

from ..serving import client
from .jobs import BatchError

SUBFOLDER = "stableviton-batch"  # of the servers' input folders


def digest_of(path: Path) -> str:
    """Of a picture's bytes. BatchError where it cannot be read as an image."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as opened:
            opened.load()
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise BatchError(f"{path} cannot be read as an image: {error}") from error
    except Image.DecompressionBombError as error:
        raise BatchError(f"{path} is too large for an image: {error}") from error
    return hashlib.sha256(content).hexdigest()


class Uploads:
    """What one server has been sent, each picture once."""

    def __init__(self, session: aiohttp.ClientSession):
        self.session = session
        self._sent: dict[str, str] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def name_of(self, path: Path, digest: str) -> str:
        """The name by which the server's Load Image nodes find a picture."""
        async with self._locks.setdefault(digest, asyncio.Lock()):
            if digest not in self._sent:
                self._sent[digest] = await client.upload_image(
                    self.session, path, digest[:32] + path.suffix.lower(), SUBFOLDER
                )
            return self._sent[digest]

    def forget(self) -> None:
        """The server may have lost them: it went away."""
        self._sent.clear()
