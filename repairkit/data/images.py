"""Image files to stored pixels of the model's size: decoded once, by several threads, in order.

A file that cannot be decoded safely is refused before it is decoded. Resizing and cropping round as
torchvision's `Resize` and `CenterCrop` do on Pillow images.
"""

import hashlib
import io
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from repairkit.core.errors import DataError, SettingsError
from repairkit.core.process.stages import stage
from repairkit.core.process.text import first_line
from repairkit.data import preprocessing as prep
from repairkit.data.dataset import LoadedImages, copies_note

_MODE_OF_CHANNELS = {1: "L", 3: "RGB"}
_MAX_RESIZED_PIXELS = 1 << 28


@dataclass(frozen=True)
class Geometry:
    """The steps that resize and crop an image; `wanted` is what the model takes, None where open.

    All sizes are (height, width) in pixels; an integer `resize` is the length of the shorter side.
    """

    resize: tuple[int, int] | int | None
    crop: tuple[int, int] | None
    wanted: tuple[int | None, int | None]

    @property
    def final_size(self) -> tuple[int, int] | None:
        """The size that every image ends with, where that is known before seeing one."""
        if self.crop is not None:
            return self.crop
        return self.resize if isinstance(self.resize, tuple) else None

    def fits(self, size: tuple[int, int]) -> bool:
        return prep.shape_fits(size, self.wanted)

    def apply(
        self, image: Image.Image, resample: Image.Resampling = Image.Resampling.BILINEAR
    ) -> Image.Image:
        """The image brought to size; masks of whole numbers are resampled to the nearest.

        Raises:
            DataError: it is too small for the crop, or too long and narrow to be resized.
        """
        if self.resize is not None:
            height, width = _resized(self.resize, image.height, image.width)
            if height * width > _MAX_RESIZED_PIXELS:
                raise DataError(
                    f"{image.height} x {image.width} pixels would grow to {height} x {width} when "
                    "resized; remove the image, or set resize to [height, width]"
                )
            if (height, width) != (image.height, image.width):
                image = image.resize((width, height), resample)
        return image if self.crop is None else _crop(image, *self.crop)


def plan_geometry(spec: prep.InputSpec, preprocessing: prep.Preprocessing) -> Geometry:
    """How images get the size that the model takes.

    Without `resize` and `crop` they are resized straight to it; after a `resize` of the shorter
    side alone they are cropped to it.

    Raises:
        SettingsError: the settings end in another size than the model takes.
    """
    resize, crop = preprocessing.resize, preprocessing.crop
    if crop is None and spec.height is not None and spec.width is not None:
        if resize is None:
            resize = (spec.height, spec.width)
        elif isinstance(resize, int):
            crop = (spec.height, spec.width)
    geometry = Geometry(resize, crop, (spec.height, spec.width))
    final = geometry.final_size
    if final is not None and not geometry.fits(final):
        wanted = " x ".join("?" if size is None else str(size) for size in geometry.wanted)
        option = "resize" if crop is None else "crop"
        size = "" if None in geometry.wanted else f" {','.join(map(str, geometry.wanted))}"
        raise SettingsError(
            f"preprocessing ends in images of {final[0]} x {final[1]} pixels and the model takes "
            f"{wanted} (height x width); give --{option}{size or ' that size'}, or leave it out"
        )
    return geometry


def resize_pixels(
    pixels: NDArray[np.uint8], geometry: Geometry, channels: int
) -> NDArray[np.uint8]:
    """One image (height, width, any channels) brought to size: (height, width, channels).

    One channel becomes three by repetition, three become one by Pillow's luminance.

    Raises:
        DataError: it is too small for the crop.
    """
    n_stored = pixels.shape[-1]
    if n_stored in _MODE_OF_CHANNELS:
        image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if n_stored == 1 else pixels))
        if channels != n_stored:
            image = image.convert(_MODE_OF_CHANNELS[channels])
        return as_pixels(geometry.apply(image))
    # One plane at a time: Pillow would take a fourth channel for alpha and weigh colours with it.
    planes = [
        Image.fromarray(np.ascontiguousarray(pixels[..., index])) for index in range(n_stored)
    ]
    return np.stack([np.asarray(geometry.apply(plane)) for plane in planes], axis=-1)


def as_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """A gray or RGB image as uint8 (height, width, channels)."""
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _resized(resize: tuple[int, int] | int, height: int, width: int) -> tuple[int, int]:
    if isinstance(resize, tuple):
        return resize
    short, long = sorted((height, width))
    grown = int(resize * long / short)
    return (resize, grown) if height <= width else (grown, resize)


def _crop(image: Image.Image, height: int, width: int) -> Image.Image:
    if image.height < height or image.width < width:
        raise DataError(
            f"{image.height} x {image.width} pixels are fewer than the crop of {height} x {width}; "
            "set resize to at least the crop"
        )
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))


# Listed, because Pillow would otherwise run Ghostscript on files that look like PostScript.
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF", "JPEG2000")
_MOST_BYTES = 512 << 20
_BITS_PER_SAMPLE = 258
_LARGE_PIXELS = 1 << 24
_LARGE = threading.Lock()
_MODE_OF_COLOR = {"gray": "L", "rgb": "RGB", "bgr": "RGB"}


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
        DataError: the file is missing, truncated, no image, or too large.
    """
    if not file.path.is_file():
        fault = "is no file" if file.path.exists() else "does not exist"
        raise DataError(f"{file.place}: the image {fault}; expected an image file, check the path")
    try:
        if file.path.stat().st_size > _MOST_BYTES:
            raise DataError(f"{file.place}: is over {_MOST_BYTES >> 20} MiB; scale the image down")
        content = file.path.read_bytes()
    except OSError as error:
        raise DataError(f"{file.place}: cannot be read ({error.strerror}); check it") from error
    if not content:
        raise DataError(f"{file.place}: the file is empty; replace or remove it")
    with _refusals_named(file.place), Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        n_pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
        if limit is not None and n_pixels > limit:
            # Pillow itself only warns up to twice the limit, and warnings can be off.
            raise Image.DecompressionBombError
        # Large images are decoded one after the other, so that threads share their memory.
        with _LARGE if n_pixels > _LARGE_PIXELS else nullcontext():
            n_frames = getattr(image, "n_frames", 1)
            upright = ImageOps.exif_transpose(image)
            pixels = as_pixels(
                geometry.apply(_convert(upright, image.format, _MODE_OF_COLOR[color]))
            )
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
        raise DataError(
            f"{place}: the image declares over {Image.MAX_IMAGE_PIXELS} pixels, a decompression "
            "bomb; scale it down with a tool you trust, or remove it"
        ) from error
    except UnidentifiedImageError as error:
        raise DataError(
            f"{place}: is no image that Pillow can read; expected one of {', '.join(_FORMATS)}"
        ) from error
    except Exception as error:  # broken bytes can make Pillow raise any error
        raise DataError(
            f"{place}: the image is truncated or damaged ({first_line(error)}); "
            "replace or remove it"
        ) from error


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


IN_MEMORY_BYTES = 1 << 30


def allocate_pixels(
    shape: tuple[int, ...], *, in_memory_bytes: int = IN_MEMORY_BYTES
) -> NDArray[np.uint8]:
    """Zeroed uint8 of `shape`, in memory up to `in_memory_bytes` and else in a temporary file.

    The file has no name, or is deleted on close, so that a killed process leaves none either.

    Raises:
        DataError: neither memory nor the folder for temporary files has the room.
    """
    n_bytes = int(np.prod([int(size) for size in shape], dtype=object))
    try:
        if n_bytes <= in_memory_bytes:
            return np.zeros(shape, dtype=np.uint8)
        with tempfile.TemporaryFile(prefix="repairkit-") as file:
            if hasattr(os, "posix_fallocate"):
                # A sparse file would kill the process by SIGBUS once the disk is full.
                os.posix_fallocate(file.fileno(), 0, n_bytes)
            return np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)
    except (OSError, MemoryError, OverflowError) as error:
        raise DataError(
            f"the images need {n_bytes / 2**30:.1f} GiB and {tempfile.gettempdir()} cannot hold "
            f"them ({type(error).__name__}); free space there, point TMPDIR elsewhere, or give "
            "fewer images"
        ) from error


_CHANNELS = {"gray": 1, "rgb": 3, "bgr": 3}
_MAX_THREADS = 16


def load_files(
    files: Sequence[ImageFile], spec: prep.InputSpec, preprocessing: prep.Preprocessing
) -> LoadedImages:
    """Decode every file to the model's size and colours; at least one file.

    Raises:
        DataError: a file cannot be decoded, or sizes differ where the model needs one.
        SettingsError: the preprocessing does not fit the model's input.
    """
    color = _color(spec, preprocessing)
    geometry = plan_geometry(spec, preprocessing)
    table = prep.value_table(preprocessing, _CHANNELS[color], spec.dtype)
    # Pillow warns of odd metadata; what matters is judged in `decode`, without warnings.
    with warnings.catch_warnings(action="ignore"):
        first = decode(files[0], color, geometry).pixels
        _check_size(files[0], first, geometry)
        pixels = allocate_pixels((len(files), *first.shape))

        def store(index: int) -> Decoded:
            decoded = decode(files[index], color, geometry)
            if decoded.pixels.shape != first.shape:
                raise DataError(
                    f"{files[index].place}: has {prep.describe_shape(decoded.pixels.shape[:2])} "
                    f"pixels and {files[0].place} has {prep.describe_shape(first.shape[:2])}; the "
                    "model fixes no size, so set resize = [height, width]"
                )
            pixels[index] = decoded.pixels
            return replace(decoded, pixels=first)

        read = _map_in_threads(store, len(files))
    digests = [decoded.digest for decoded in read]
    return LoadedImages(
        prep.PixelImages(pixels, table, channels_first=spec.layout == "nchw"),
        hashlib.sha256("\n".join(digests).encode()).hexdigest(),
        (*copies_note(digests), *_frames_note(read)),
    )


def _color(spec: prep.InputSpec, preprocessing: prep.Preprocessing) -> str:
    if spec.layout == "other":
        raise DataError(
            f"the model takes {prep.describe_shape(spec.shape)} per image, which no image file "
            "gives; give --data as a .npz whose x is ready for the model"
        )
    color = preprocessing.color or ("gray" if spec.channels == 1 else "rgb")
    if spec.channels == _CHANNELS[color] or spec.channels is None:
        return color
    if spec.channels in _CHANNELS.values():
        raise SettingsError(
            f"color {color!r} gives {_CHANNELS[color]} channel(s) and the model takes "
            f"{spec.channels}; leave color out, or change it"
        )
    raise DataError(
        f"the model takes {spec.channels} channels (layout {spec.layout}) and image files give 1 "
        "or 3; set layout if it is wrong, or give --data as a .npz"
    )


def _map_in_threads(store: Callable[[int], Decoded], n_files: int) -> list[Decoded]:
    pool = ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1))
    try:
        with stage("decoding images", total=n_files) as tell:
            decoded = []
            for image in pool.map(store, range(n_files)):
                decoded.append(image)
                tell(len(decoded))
            return decoded
    finally:
        # After an error, files that no thread has begun are left undone.
        pool.shutdown(cancel_futures=True)


def _check_size(file: ImageFile, pixels: NDArray[np.uint8], geometry: Geometry) -> None:
    height, width = pixels.shape[:2]
    if not geometry.fits((height, width)):
        raise DataError(
            f"{file.place}: has {height} x {width} pixels and the model takes "
            f"{prep.describe_shape(geometry.wanted)} (height x width); set resize"
        )


def _frames_note(read: Sequence[Decoded]) -> tuple[str, ...]:
    n_files = sum(decoded.n_frames > 1 for decoded in read)
    if not n_files:
        return ()
    return (f"{n_files} image file(s) hold several frames or pages, of which the first was read",)
