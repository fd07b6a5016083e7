"""The demo: runs `workflows/api/tryon_correspondence.json` on a ComfyUI of its own, from four image
files to one.

`scripts/demo.py` starts it.
"""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from ..errors import ImageError, PromptError, StableVITONError
from ..images import check_ending, decode_image, make_image_grid, read_image, write_image
from . import client
from .graph import Graph, find_class, find_title, get_title, load_graph, set_image, set_input
from .install import PACK, install_pack
from .process import Server, count_accelerators, serve

_log = logging.getLogger(__name__)

GRAPH = PACK / "workflows" / "api" / "tryon_correspondence.json"
BASE = PACK / ".cache" / "demo-server"
INPUT_TITLES = ("Person", "Mask", "DensePose", "Garment")  # of the graph's Load nodes


def scale_to_height(image: np.ndarray, height: int) -> np.ndarray:
    """H x W x 3 uint8 -> height x W' x 3, of the same aspect."""
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


@contextmanager
def progress_bar(graph: Graph) -> Iterator[Callable[[client.Progress], None]]:
    """A function to call with each Progress; it shows the steps of the running node."""
    bar, running_node = None, None

    def show(progress: client.Progress) -> None:
        nonlocal bar, running_node
        if progress.node != running_node:
            if bar:
                bar.close()
            running_node = progress.node
            title = get_title(graph, running_node) if running_node in graph else running_node
            bar = tqdm(total=progress.maximum, desc=title)
        bar.update(progress.value - bar.n)

    try:
        yield show
    finally:
        if bar:
            bar.close()


async def run_tryon(server: Server, graph: Graph, files: dict[str, Path]) -> list[np.ndarray]:
    """The result and the image of its correspondence, H x W x 3 uint8. files: input images by the
    title of their Load node."""
    async with client.connect(server.url) as session:
        for title, file in files.items():
            name = title.lower() + file.suffix.lower()
            image = await client.upload_image(session, file, name, subfolder="demo")
            set_image(graph, title, image)
        with progress_bar(graph) as show:
            outputs = await client.run(session, graph, show)
        images = []
        for node in (find_title(graph, "Result"), find_class(graph, "StableVITONCorrespondence")):
            results = outputs.get(node, {}).get("images")
            if not results:
                raise PromptError(f"The node titled {get_title(graph, node)} gave no image.")
            images.append(decode_image(await client.download(session, results[0])))
        return images


def run_demo(comfyui: Path, output: Path, files: dict[str, Path], checkpoint: str | None) -> None:
    """Write the try-on to `output`, and beside it an image grid of garment, person, try-on and
    correspondence.

    StableVITONError where an image cannot be read or written or the graph does not run.
    """
    check_ending(output)
    inputs = {title: read_image(file) for title, file in files.items()}
    graph = load_graph(GRAPH)
    if checkpoint:
        set_input(graph, find_class(graph, "StableVITONLoader"), "ckpt_name", checkpoint)

    install_pack(BASE)
    _log.info("Starting ComfyUI (%s)", comfyui)
    with serve(comfyui, BASE, cpu=count_accelerators() == 0) as server:
        result, correspondence = asyncio.run(run_tryon(server, graph, files))

    grid_file = output.with_name(f"{output.stem}-sheet.png")
    images = [inputs["Garment"], inputs["Person"], result, correspondence]
    columns = ([scale_to_height(image, len(result))] for image in images)
    write_image(output, result)
    write_image(grid_file, make_image_grid(*columns))
    _log.info("The try-on: %s\nGarment, person, try-on, correspondence: %s", output, grid_file)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stableviton_core.serving.demo")
    parser.add_argument("--comfyui", type=Path, required=True, help="the folder of a ComfyUI")
    parser.add_argument("--output", type=Path, required=True)
    for title in INPUT_TITLES:
        name = title.lower()
        parser.add_argument(f"--{name}", type=Path, default=PACK / "demo" / f"{name}.png")
    parser.add_argument("--checkpoint", help="a name in ComfyUI's list of stableviton files")
    return parser.parse_args()


def _exit_on_signal(number: int, _frame: object) -> None:
    sys.exit(128 + number)  # as an exception, so that the server is stopped on the way out


def main() -> int:
    arguments = parse_arguments()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _exit_on_signal)
    files = {title: getattr(arguments, title.lower()) for title in INPUT_TITLES}
    try:
        run_demo(arguments.comfyui, arguments.output, files, arguments.checkpoint)
    except ImageError as error:
        _log.error("%s", error)
    except StableVITONError as error:
        _log.error("%s\nThe server's log: %s", error, BASE / "server.log")
    except KeyboardInterrupt:
        _log.error("Stopped.")
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
