"""One image file to pixels; what cannot be decoded safely is refused before it is."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from repairkit.core.errors import DataError
from repairkit.core.process.text import first_line
from repairkit.data.pixels.geometry import Geometry, as_pixels

# Named, for Pillow would else run Ghostscript on whatever looks like PostScript.
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF", "JPEG2000")
_MOST_BYTES = 512 << 20
_BITS_PER_SAMPLE = 258
_LARGE_PIXELS = 1 << 24
_LARGE = threading.Lock()
_MODES = {"gray": "L", "rgb": "RGB", "bgr": "RGB"}


@dataclass(frozen=True)
class ImageFile:
    """An image on disk, and how messages name it: its path and, in a manifest, its row."""

    path: Path
    place: str


@dataclass(frozen=True, eq=False)
class Decoded:
    """Pixels, uint8 (height, width, channels), and the SHA-256 of the file they came from.

    `n_frames` is how many frames or pages the file holds, of which the first was read.
    """

    pixels: NDArray[np.uint8]
    digest: str
    n_frames: int = 1


def decode(file: ImageFile, color: str, geometry: Geometry) -> Decoded:
    """The image upright, in `color` and brought to size; of several frames the first.

    Raises:
        DataError: the file is missing, truncated, no image, or too large to be one in good faith.
    """
    if not file.path.is_file():
        found = "is no file" if file.path.exists() else "does not exist"
        raise DataError(f"{file.place}: the image {found}; expected an image file, check the path")
    try:
        if file.path.stat().st_size > _MOST_BYTES:
            raise DataError(f"{file.place}: is over {_MOST_BYTES >> 20} MiB; scale the image down")
        content = file.path.read_bytes()
    except OSError as error:
        raise DataError(f"{file.place}: cannot be read ({error.strerror}); check it") from error
    if not content:
        raise DataError(f"{file.place}: the file is empty; replace or remove it")
    with _refusals_named(file.place), Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        _refuse_bomb(image)
        with _one_at_a_time(image):
            n_frames = getattr(image, "n_frames", 1)
            upright = ImageOps.exif_transpose(image)
            pixels = as_pixels(geometry.apply(_convert(upright, image.format, _MODES[color])))
    if color == "bgr":
        pixels = pixels[..., ::-1]
    return Decoded(pixels, hashlib.sha256(content).hexdigest(), n_frames)


@contextmanager
def _refusals_named(place: str) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(f"{place}: {error}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(_bomb_message(place)) from error
    except UnidentifiedImageError as error:
        raise DataError(
            f"{place}: is no image that Pillow can read; expected one of {', '.join(_FORMATS)}"
        ) from error
    except Exception as error:  # Pillow's decoders raise whatever broken bytes make them
        raise DataError(
            f"{place}: the image is truncated or damaged ({first_line(error)}); "
            "replace or remove it"
        ) from error


def _one_at_a_time(image: Image.Image) -> AbstractContextManager[object]:
    """Large images are decoded one after the other, so that threads share their memory."""
    return _LARGE if image.width * image.height > _LARGE_PIXELS else nullcontext()


def _bomb_message(place: str) -> str:
    return (
        f"{place}: the image declares over {Image.MAX_IMAGE_PIXELS} pixels, a decompression bomb; "
        "scale it down with a tool you trust, or remove it"
    )


def _refuse_bomb(image: Image.Image) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        # Pillow itself only warns up to twice the limit, and warnings can be off.
        raise Image.DecompressionBombError


def _bits(image: Image.Image) -> int:
    """How many bits the values of an image of over 8 bits have; a TIFF may hold 12 of 16."""
    declared = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))
    bits = declared[0] if isinstance(declared, tuple) else declared
    return int(bits) if 8 < int(bits) <= 16 else 16


def _convert(image: Image.Image, file_format: str | None, mode: str) -> Image.Image:
    # Pillow holds 16-bit PNG and PGM files in mode `I`, scaled to 65535; elsewhere `I` is 32 bits.
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in ("PNG", "PPM")):
        # Pillow would clip 16-bit values at 255 rather than scale them.
        values = np.asarray(image).astype(np.uint16) >> (_bits(image) - 8)
        image = Image.fromarray(values.astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "floating-point" if image.mode == "F" else "32-bit integer"
        raise DataError(f"the image has {kind} pixels; save it with 8 or 16 bits per channel")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)
