"""The demo: `workflows/api/tryon.json` on a ComfyUI of its own, from four pictures to a file."""

import argparse
import asyncio
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from ..errors import ImageError, PromptError, StableVITONError
from . import client
from .graph import Graph, find_class, find_title, load_graph, set_image, set_input, title_of
from .install import PACK, install_pack
from .process import Server, accelerators, serve

_log = logging.getLogger(__name__)

GRAPH = PACK / "workflows" / "api" / "tryon.json"
BASE = PACK / ".cache" / "demo-server"
PICTURES = ("Person", "Mask", "DensePose", "Garment")  # the titles of the graph's Load nodes


def open_picture(path: Path) -> Image.Image:
    """Raises ImageError when the file is missing or no picture."""
    try:
        with Image.open(path) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")
    except FileNotFoundError as error:
        raise ImageError(f"There is no picture {path}.") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ImageError(f"The picture {path} cannot be read: {error}") from error


def check_output(path: Path) -> None:
    known = Image.registered_extensions()
    if known.get(path.suffix.lower()) not in Image.SAVE:
        raise ImageError(f"Cannot write {path}: give it the ending .png, .jpg or .webp.")


def write_picture(picture: Image.Image, path: Path) -> None:
    """Writes beside the target first: the target is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".unfinished-{path.name}")
    picture.save(unfinished)
    os.replace(unfinished, path)


def make_sheet(pictures: list[Image.Image], height: int) -> Image.Image:
    """The pictures side by side at one height."""
    scaled = [p.resize((max(1, round(p.width * height / p.height)), height)) for p in pictures]
    sheet = Image.new("RGB", (sum(p.width for p in scaled), height))
    left = 0
    for picture in scaled:
        sheet.paste(picture, (left, 0))
        left += picture.width
    return sheet


@contextmanager
def progress_bar(graph: Graph) -> Iterator[Callable[[client.Progress], None]]:
    """A function to call with each Progress: it shows the steps of the node that runs."""
    bar, running = None, None

    def show(progress: client.Progress) -> None:
        nonlocal bar, running
        if progress.node != running:
            if bar:
                bar.close()
            running = progress.node
            title = title_of(graph, running) if running in graph else running
            bar = tqdm(total=progress.maximum, desc=title)
        bar.update(progress.value - bar.n)

    try:
        yield show
    finally:
        if bar:
            bar.close()


async def try_on(server: Server, graph: Graph, pictures: dict[str, Path]) -> Image.Image:
    """Runs the graph with these pictures, by title of their Load node; the picture of Result."""
    async with client.connect(server.url) as session:
        for title, path in pictures.items():
            name = title.lower() + path.suffix.lower()
            image = await client.upload_image(session, path, name, subfolder="demo")
            set_image(graph, title, image)
        with progress_bar(graph) as show:
            outputs = await client.run(session, graph, show)
        images = outputs.get(find_title(graph, "Result"), {}).get("images")
        if not images:
            raise PromptError("The node titled Result gave no picture.")
        content = await client.download(session, images[0])
    return Image.open(io.BytesIO(content)).convert("RGB")


def run_demo(
    comfyui: Path, output: Path, pictures: dict[str, Path], checkpoint: str | None
) -> None:
    """Writes the try-on to `output` and a sheet beside it.

    Raises ImageError and StableVITONError.
    """
    check_output(output)
    opened = {title: open_picture(path) for title, path in pictures.items()}
    graph = load_graph(GRAPH)
    if checkpoint:
        set_input(graph, find_class(graph, "StableVITONLoader"), "ckpt_name", checkpoint)

    install_pack(BASE)
    _log.info("Starting ComfyUI (%s)", comfyui)
    with serve(comfyui, BASE, cpu=accelerators() == 0) as server:
        result = asyncio.run(try_on(server, graph, pictures))

    sheet = output.with_name(f"{output.stem}-sheet.png")
    write_picture(result, output)
    write_picture(make_sheet([opened["Garment"], opened["Person"], result], result.height), sheet)
    _log.info("The try-on: %s\nGarment, person and try-on: %s", output, sheet)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stableviton_core.serving.demo")
    parser.add_argument("--comfyui", type=Path, required=True, help="the folder of a ComfyUI")
    parser.add_argument("--output", type=Path, required=True)
    for title in PICTURES:
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
    pictures = {title: getattr(arguments, title.lower()) for title in PICTURES}
    try:
        run_demo(arguments.comfyui, arguments.output, pictures, arguments.checkpoint)
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
