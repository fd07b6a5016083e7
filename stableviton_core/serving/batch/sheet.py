"""All results of a batch on one picture: persons down, garments across."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from ...files import replace_atomically
from .jobs import Job
from .uploads import NOT_A_PICTURE

FILE = "contact-sheet.jpg"
CELL = (144, 192)  # width and height, pixels
LARGEST = 16_000  # pixels of a side; JPEG ends at 65,535
GROUND, MISSING = "white", "#c04040"


def contact_sheet(jobs: Sequence[Job], results: Mapping[str, Path], output: Path) -> Path:
    """Write it into a folder. results: files by the jobs' names; a job without one gets a cross.
    The first row shows the garments, the first column the persons."""
    persons = list(dict.fromkeys(job.pictures["person"] for job in jobs))
    garments = list(dict.fromkeys(job.pictures["garment"] for job in jobs))
    columns, rows = len(garments) + 1, len(persons) + 1
    shrink = min(1.0, LARGEST / (columns * CELL[0]), LARGEST / (rows * CELL[1]))
    cell = (max(1, int(CELL[0] * shrink)), max(1, int(CELL[1] * shrink)))
    sheet = Image.new("RGB", (columns * cell[0], rows * cell[1]), GROUND)

    def place(file: Path | None, column: int, row: int) -> None:
        corner = (column * cell[0], row * cell[1])
        picture = None if file is None else _small(file, cell)
        if picture is None:
            ends = (*corner, corner[0] + cell[0], corner[1] + cell[1])
            ImageDraw.Draw(sheet).line(ends, MISSING, width=2)
            ImageDraw.Draw(sheet).line((ends[0], ends[3], ends[2], ends[1]), MISSING, width=2)
        else:
            sheet.paste(picture, corner)

    for column, garment in enumerate(garments, start=1):
        place(garment, column, 0)
    for row, person in enumerate(persons, start=1):
        place(person, 0, row)
    for job in jobs:
        column = garments.index(job.pictures["garment"]) + 1
        row = persons.index(job.pictures["person"]) + 1
        place(results.get(job.name), column, row)
    file = output / FILE
    with replace_atomically(file) as partial:
        sheet.save(partial, format="JPEG", quality=90)
    return file


def _small(file: Path, cell: tuple[int, int]) -> Image.Image | None:
    """None for a file that is no picture."""
    try:
        with Image.open(file) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGB")
    except NOT_A_PICTURE:
        return None
    return ImageOps.pad(upright, cell, color=GROUND)
