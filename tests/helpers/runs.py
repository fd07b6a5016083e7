"""Graphs queued on a running server, and their images."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from stableviton_core.images import decode_image
from stableviton_core.serving import client
from stableviton_core.serving.graph import Graph, set_image
from stableviton_core.serving.process import Server


def run_graph(server: Server, graph: Graph, images: Mapping[str, Path] | None = None) -> dict:
    """The outputs by node. images: to upload, by the title of their Load Image node."""

    async def action() -> dict:
        async with client.connect(server.url) as session:
            for title, file in (images or {}).items():
                set_image(graph, title, await client.upload_image(session, file))
            return await client.run(session, graph)

    return asyncio.run(action())


def download_image(server: Server, image: dict) -> np.ndarray:
    """An image of the outputs, H x W x 3 uint8."""

    async def action() -> bytes:
        async with client.connect(server.url) as session:
            return await client.download(session, image)

    return decode_image(asyncio.run(action()))
