"""Image files and arrays: decoding, writing, image grids. Arrays are H x W x 3 uint8 RGB, masks
H x W. Without torch, so that the batch client stays small; tensors are in `image_tensors`.
"""

import io
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps

from .errors import ImageError
from .files import replace_atomically

IMAGE_EXTENSIONS = (".jpg", ".png", ".jpeg", ".webp")
MULTIPLE = 8  # image pixels per latent pixel, along a side
GREY_LEVEL = 128  # of 255: the agnostic region
MASK_LEVEL = 128  # of 255: a mask file's pixels from this value on are to change
JPEG_OPTIONS = {"format": "JPEG", "quality": 95}
WRITING_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".jpg": JPEG_OPTIONS,
    ".jpeg": JPEG_OPTIONS,
    ".webp": {"format": "WEBP"},
}
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")  # that are decoded
MAX_PIXELS = 200_000_000
MAX_FILE = 512 << 20
UNDECODABLE = (
    *(OSError, EOFError, SyntaxError, struct.error, zlib.error),
    *(ArithmeticError, LookupError, TypeError, ValueError, MemoryError, RuntimeError),
)


def list_images(folder: Path) -> list[Path]:
    """Image files of a folder, sorted by name. ImageError where there are none."""
    if not folder.is_dir():
        raise ImageError(f"{folder} is not a folder.")
    images = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_EXTENSIONS)
    if not images:
        raise ImageError(f"{folder} has no images ({', '.join(IMAGE_EXTENSIONS)}).")
    return images


def decode_image(content: bytes) -> np.ndarray:
    """An encoded image -> H x W x 3 uint8 RGB: EXIF orientation applied, alpha composited over
    white, grey expanded, 16 bits scaled to 8. ImageError for bytes that are none of FORMATS, and
    for more than MAX_PIXELS."""
    with _decode_header(io.BytesIO(content)) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):  # 16-bit grey
            levels = np.asarray(image).clip(0, 65535).astype(np.uint16)
            image = Image.fromarray(((levels.astype(np.uint32) + 128) // 257).astype(np.uint8))
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        return np.array(image.convert("RGB"))  # a copy, for torch needs a writable array


@contextmanager
def _decode_header(file: BinaryIO) -> Iterator[Image.Image]:
    """An image whose pixels are not decoded yet. ImageError where they, or its header, cannot be.

    Not by Image.open: that would try all of Pillow's formats, some of which run other programs, and
    has a limit on pixels that this process shares with others.
    """
    Image.init()
    decoders = [Image.OPEN[name] for name in FORMATS if name in Image.OPEN]
    try:
        start = file.read(16)
        file.seek(0)
        fitting = [decode for decode, accept in decoders if accept and accept(start) is True]
        if not fitting:
            raise ImageError(f"it is no readable image: none of {', '.join(FORMATS)}")
        with fitting[0](file, "") as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(
                    f"it is {width} x {height}, {width * height / 1e6:.0f} megapixels; at most "
                    f"{MAX_PIXELS / 1e6:.0f} are read. Make it smaller first"
                )
            yield image
    except ImageError:
        raise
    except UNDECODABLE as error:
        raise ImageError(f"it is no readable image ({_describe(error)})") from error


def _describe(error: BaseException) -> str:
    """The message of a decoder, without the address of what it read from."""
    return str(error).partition(" <_io.BytesIO")[0] or type(error).__name__


def read_image(path: Path) -> np.ndarray:
    """`decode_image` of a file. ImageError names a file that is missing or no image."""
    with explain_image_file(path):
        return decode_image(read_file(path))


def read_file(path: Path) -> bytes:
    """The bytes of a file. ImageError as `_open_file`."""
    with _open_file(path) as file:
        return file.read()


def _open_file(path: Path) -> BinaryIO:
    """ImageError where the path is no file (a pipe would never end), and for more than MAX_FILE."""
    if not path.exists():
        raise FileNotFoundError(path)
    if not path.is_file():
        raise ImageError("it is not a file")
    size = path.stat().st_size
    if size > MAX_FILE:
        raise ImageError(f"it has {size >> 20} MiB; at most {MAX_FILE >> 20} are read")
    return path.open("rb")


@contextmanager
def explain_image_file(path: Path) -> Iterator[None]:
    """ImageError with the file's name in place of what reading and decoding it raises."""
    try:
        yield
    except FileNotFoundError as error:
        raise ImageError(f"{path} is missing.") from error
    except (OSError, ImageError) as error:
        raise ImageError(f"{path} cannot be read as an image ({error}).") from error


def read_numbers(path: Path) -> np.ndarray | None:
    """The values of an image file of one channel, H x W uint8: grey levels, or the indices of a
    palette, whatever its colours. None for an image of other channels. ImageError as
    `read_image`."""
    with explain_image_file(path), _open_file(path) as file, _decode_header(file) as opened:
        if opened.mode not in ("L", "P"):
            return None
        return np.array(ImageOps.exif_transpose(opened), np.uint8)


def read_orientation(path: Path) -> int:
    """The EXIF orientation of an image file, 1 to 8; 1 is upright, and that of files without.
    ImageError as `read_image`."""
    with explain_image_file(path), _open_file(path) as file, _decode_header(file) as opened:
        return int(opened.getexif().get(ExifTags.Base.Orientation, 1))


def read_mask(path: Path) -> np.ndarray:
    """A mask file -> H x W uint8, 0 or 255: its luma binarised at 128, at the file's size."""
    luma = cv2.cvtColor(read_image(path), cv2.COLOR_RGB2GRAY)
    return np.where(luma >= MASK_LEVEL, 255, 0).astype(np.uint8)


def check_ending(file: Path) -> None:
    """ImageError where `write_image` cannot write a file of this name."""
    if file.suffix.lower() not in WRITING_OPTIONS:
        endings = " or ".join(WRITING_OPTIONS)
        raise ImageError(f"{file} cannot be written: give it the ending {endings}.")


def write_image(file: Path, image: np.ndarray) -> None:
    """Write an array (H x W x 3 or H x W, uint8) atomically; its folder is made.

    The ending of the name gives the format. ImageError for one that is not in WRITING_OPTIONS.
    """
    check_ending(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(file) as partial:
        Image.fromarray(image).save(partial, **WRITING_OPTIONS[file.suffix.lower()])


def make_image_grid(*columns: Sequence[np.ndarray]) -> np.ndarray:
    """Columns of N images H x W x 3 each -> an image N H x (columns W) x 3, one row per item."""
    return np.concatenate([np.concatenate(row, axis=1) for row in zip(*columns, strict=True)])


def check_size(name: str, height: int, width: int, advice: str = "") -> None:
    """ImageError unless both sides are multiples of 8. name: of what has this size; advice: how to
    correct it; both for the error."""
    if height % MULTIPLE or width % MULTIPLE:
        raise ImageError(
            f"The {name} is {width} x {height} (width x height); both must be multiples of "
            f"{MULTIPLE}, such as 384 x 512. {advice}".rstrip()
        )


def fill_agnostic_region(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """An array with the region of a mask (H x W, 0 = keep) replaced by grey 128."""
    return np.where(mask[..., None] > 0, np.uint8(GREY_LEVEL), image)


def blend_agnostic_region(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """An array with grey 128 in place of the region of a soft mask (H x W uint8, 255 = change)."""
    change = mask[..., None].astype(np.float32) / 255
    return (image * (1 - change) + GREY_LEVEL * change).round().astype(np.uint8)


def blur_inside(values: np.ndarray, weight: np.ndarray, sigma: float) -> np.ndarray:
    """float32 values H x W x C averaged over a Gaussian window of sigma pixels, by a weight H x W
    from 0 on; far from any weight, 0."""
    weighted = blur(values * weight[..., None], sigma)
    return weighted / np.maximum(blur(weight, sigma), 1e-6)[..., None]


def blur(values: np.ndarray, sigma: float) -> np.ndarray:
    """float32 values H x W or H x W x C, averaged over a Gaussian window of sigma pixels; a wide
    one is computed at a fraction of the size, where that does."""
    shrink = max(1, int(sigma / 4))
    height, width = values.shape[:2]
    size = (math.ceil(width / shrink), math.ceil(height / shrink))
    small = cv2.resize(values, size, interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(small, (0, 0), sigma / shrink, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)
