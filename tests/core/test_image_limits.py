"""Image files that would run programs, take all memory, or never end."""

import contextlib
import io
import os

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from helpers.limits import require_limits
from helpers.png import make_png
from stableviton_core.errors import ImageError
from stableviton_core.images import decode_image, read_image, read_mask, read_numbers

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n%%EOF\n"
FITS = b"SIMPLE  =                    T".ljust(80) + b"END".ljust(2800)


@pytest.mark.parametrize("content", [EPS, FITS, b"", b"BM", b"II*\0", b"\x89PNG\r\n\x1a\n"])
@pytest.mark.parametrize("ending", [".png", ".eps"])
def test_only_the_listed_formats_are_decoded(tmp_path, content, ending, monkeypatch):
    """Pillow alone would hand an EPS to Ghostscript, whatever its name."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("ran Ghostscript"))
    (tmp_path / f"x{ending}").write_bytes(content)
    with pytest.raises(ImageError, match=f"x{ending} cannot be read as an image"):
        read_image(tmp_path / f"x{ending}")


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_the_listed_formats_are_decoded(name):
    stream = io.BytesIO()
    Image.new("RGB", (16, 8), "teal").save(stream, name)
    decoded = decode_image(stream.getvalue())
    assert decoded.shape == (8, 16, 3) and np.abs(decoded - [0, 128, 128]).max() <= 4
    for cut in range(0, len(stream.getvalue()), 7):
        with contextlib.suppress(ImageError):
            decode_image(stream.getvalue()[:cut])


@pytest.mark.parametrize("size", [(20_000, 10_001), (65_535, 65_535), (2**31 - 1, 2**31 - 1)])
def test_an_image_of_too_many_pixels_is_refused_unread(tmp_path, size):
    (tmp_path / "bomb.png").write_bytes(make_png(*size, rows=0))
    for read in (read_image, read_mask, read_numbers):
        with require_limits(), pytest.raises(ImageError, match="bomb.png.* at most 200 are read"):
            read(tmp_path / "bomb.png")


def test_a_photo_of_a_hundred_megapixels_is_read(recwarn):
    decoded = decode_image(make_png(20_000, 5_000, rows=5_000))
    assert decoded.shape == (5_000, 20_000, 3)
    assert not recwarn.list, "Pillow warns from 89 megapixels on"


def test_a_pipe_a_folder_and_a_loop_of_links_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name in ("pipe", "folder"):
        with pytest.raises(ImageError, match=f"{name}.png .*it is not a file"):
            read_image(tmp_path / f"{name}.png")
    with pytest.raises(ImageError, match="loop.png is missing"):
        read_image(tmp_path / "loop.png")
