"""The contact sheet: all results of a batch on one image, persons down, garments across."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from ...errors import ImageError
from ...images import read_image, write_image
from .jobs import Job

FILE = "contact-sheet.jpg"
CELL = (144, 192)  # width and height in pixels
MAX_SIDE = 16_000  # pixels; JPEG allows 65,535
BACKGROUND, CROSS = "white", "#c04040"


def write_contact_sheet(jobs: Sequence[Job], results: Mapping[str, Path], output: Path) -> Path:
    """Write it to a folder and return its file. results: files by job name; a job without one gets
    a cross. The first row shows the garments, the first column the persons."""
    persons = list(dict.fromkeys(job.images["person"] for job in jobs))
    garments = list(dict.fromkeys(job.images["garment"] for job in jobs))
    columns, rows = len(garments) + 1, len(persons) + 1
    scale = min(1.0, MAX_SIDE / (columns * CELL[0]), MAX_SIDE / (rows * CELL[1]))
    width, height = (max(1, int(side * scale)) for side in CELL)
    grid = Image.new("RGB", (columns * width, rows * height), BACKGROUND)

    def fill_cell(file: Path | None, column: int, row: int) -> None:
        left, top = column * width, row * height
        image = _read_optional(file)
        if image is not None:
            grid.paste(ImageOps.pad(image, (width, height), color=BACKGROUND), (left, top))
            return
        right, bottom = left + width, top + height
        draw = ImageDraw.Draw(grid)
        draw.line((left, top, right, bottom), CROSS, width=2)
        draw.line((left, bottom, right, top), CROSS, width=2)

    for column, garment in enumerate(garments, start=1):
        fill_cell(garment, column, 0)
    for row, person in enumerate(persons, start=1):
        fill_cell(person, 0, row)
    for job in jobs:
        column = garments.index(job.images["garment"]) + 1
        row = persons.index(job.images["person"]) + 1
        fill_cell(results.get(job.name), column, row)
    file = output / FILE
    write_image(file, np.asarray(grid))
    return file


def _read_optional(file: Path | None) -> Image.Image | None:
    """None where there is no file, or it is no image."""
    try:
        return None if file is None else Image.fromarray(read_image(file))
    except ImageError:
        return None
