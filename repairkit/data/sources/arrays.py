"""The arrays of an `.npz`: images, labels, attributes and the model's other inputs.

The file is read without pickle and without trusting what it claims. The image array is ready for
the model, or holds 8-bit images yet to be preprocessed.
"""

import hashlib
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from repairkit.core import errors, suite
from repairkit.core.process.text import first_line
from repairkit.data import preprocessing as prep
from repairkit.data.dataset import LoadedImages, copies_note, digest_array
from repairkit.data.images import Geometry, allocate_pixels, plan_geometry, resize_pixels

MAX_BYTES = 64 << 30
# Images rarely compress better than this; a bomb is compressed a thousand to one.
_MOST_TIMES = 20
_SMALL_BYTES = 1 << 30
_MOST_ARRAYS = 1000
_LAST_CHARACTER = 0x10FFFF
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    SyntaxError,
    OverflowError,
    tokenize.TokenError,
)
_HEADER_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_archive(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, suite.Array]:
    """Every array of the archive, by name.

    Raises:
        DataError: it is no `.npz`, is truncated or damaged, holds pickled objects, or declares
            more than `max_bytes` or other sizes than it has.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if total > max_bytes:
                raise errors.DataError(
                    f"{path}: declares {total / 2**30:.3g} GiB of arrays and at most "
                    f"{max_bytes / 2**30:.3g} GiB are read; give fewer images, or image files"
                )
            if total > max(_SMALL_BYTES, _MOST_TIMES * path.stat().st_size):
                raise errors.DataError(
                    f"{path}: declares {total / 2**30:.3g} GiB of arrays in a file of "
                    f"{path.stat().st_size / 2**20:.3g} MiB, as a decompression bomb does; write "
                    "it with numpy.savez, uncompressed, if you trust it"
                )
            if len(members) > _MOST_ARRAYS:
                raise errors.DataError(
                    f"{path}: holds {len(members)} arrays and at most {_MOST_ARRAYS} are read"
                )
            return {_name(path, member): _member(path, archive, member) for member in members}
    except MemoryError as error:
        raise errors.DataError(
            f"{path}: its arrays do not fit into memory; give fewer images, or image files"
        ) from error
    except FileNotFoundError as error:
        raise errors.DataError(f"{path}: does not exist; check --data") from error
    except _BROKEN as error:
        raise errors.DataError(
            f"{path}: is no .npz that can be read: truncated, damaged or of another format "
            f"({first_line(error)}); write it anew with numpy.savez"
        ) from error


def _name(path: Path, member: zipfile.ZipInfo) -> str:
    if not member.filename.endswith(".npy"):
        raise errors.DataError(
            f"{path}: holds {member.filename!r}, which is no array; write it with numpy.savez"
        )
    return member.filename.removesuffix(".npy")


def _member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> suite.Array:
    # numpy warns where Python 2 wrote the header, which does not matter.
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        with archive.open(member) as file:
            _check_header(f"{path}: {_name(path, member)}", file, member.file_size)
        with archive.open(member) as file:
            array: suite.Array = npy.read_array(file, allow_pickle=False)
            # Reading to the end makes zipfile compare the checksum.
            file.read(1)
    if array.dtype.kind == "U":
        codes = np.dtype(np.uint32).newbyteorder(array.dtype.byteorder)
        if (np.ascontiguousarray(array).view(codes) > _LAST_CHARACTER).any():
            raise errors.DataError(f"{path}: {_name(path, member)}: holds codes of no character")
    return array


def _check_header(where: str, file: IO[bytes], declared_bytes: int) -> None:
    version = npy.read_magic(file)
    if version not in _HEADER_READERS:
        raise errors.DataError(f"{where}: is a structured array; expected plain numbers or text")
    shape, _, dtype = _HEADER_READERS[version](file)
    if dtype.hasobject:
        raise errors.DataError(
            f"{where}: is a pickled object array, which could run code when read; save it as "
            "numbers, or as text with .astype(str)"
        )
    n_bytes = math.prod(shape) * dtype.itemsize
    empty = dtype.itemsize == 0 and math.prod(shape) > declared_bytes
    if empty or min(shape, default=0) < 0 or file.tell() + n_bytes != declared_bytes:
        raise errors.DataError(
            f"{where}: its header declares {n_bytes} bytes and the archive holds "
            f"{declared_bytes - file.tell()}; the file is damaged, write it anew"
        )


_BLOCK = 256


def load_array(
    array: suite.Array, spec: prep.InputSpec, preprocessing: prep.Preprocessing, where: str
) -> LoadedImages:
    """Images from an array (n_images, ...): uint8 for a float model are pixels, all else is ready.

    Raises:
        DataError: shape or values do not fit the model; `where` opens the message.
        SettingsError: the preprocessing does not fit the model's input.
    """
    digest = hashlib.sha256()
    digest_array(digest, array)
    if array.dtype == np.uint8 and spec.dtype.kind == "f" and spec.layout != "other":
        pixel_images = _load_pixels(array, spec, preprocessing, where)
        return LoadedImages(pixel_images, digest.hexdigest(), _copies(array))
    n_missing = _check_ready(array, spec, where)
    notes = []
    if n_missing:
        notes.append(f"{n_missing} values are missing; the model gets NaN for them")
    if preprocessing != prep.Preprocessing(layout=preprocessing.layout):
        notes.append("x is ready for the model, so no preprocessing was applied to it")
    elif array.dtype.kind in "iu" and spec.dtype.kind == "f":
        notes.append(f"x holds {array.dtype} and was passed to the model as it is, unscaled")
    if not prep.is_tabular(spec):
        notes += _copies(array)
    return LoadedImages(prep.ReadyImages(array, spec.dtype), digest.hexdigest(), tuple(notes))


def _copies(array: suite.Array) -> tuple[str, ...]:
    return copies_note([hashlib.blake2b(image.tobytes()).hexdigest() for image in array])


def _check_ready(array: suite.Array, spec: prep.InputSpec, where: str) -> int:
    """Refuse what the model cannot take; the number of missing values, which only rows may have."""
    shape = array.shape[1:]
    if not prep.shape_fits(shape, spec.shape):
        raise errors.DataError(
            f"{where}: holds images of {prep.describe_shape(shape)} and the model takes "
            f"{prep.describe_shape(spec.shape)} (layout {spec.layout}); give x in the model's "
            "shape, or as uint8 images"
        )
    if array.dtype.kind not in "fiub" or spec.dtype.kind not in "fiub":
        raise errors.DataError(
            f"{where}: holds {array.dtype} and the model takes {spec.dtype}; give numbers"
        )
    n_missing = 0
    for start in range(0, len(array), _BLOCK):
        block = array[start : start + _BLOCK]
        kept = _kept_by_cast(block, spec.dtype)
        if prep.is_tabular(spec) and spec.dtype.kind == block.dtype.kind == "f":
            missing = np.isnan(block)
            kept, n_missing = kept | missing, n_missing + int(missing.sum())
        bad = ~kept.reshape(len(block), -1).all(axis=1)
        if bad.any():
            raise errors.DataError(
                f"{where}[{start + int(bad.argmax())}]: holds values that are not finite or that "
                f"{spec.dtype} cannot hold without change (x is {array.dtype}); convert x to "
                f"{spec.dtype} yourself"
            )
    return n_missing


def _kept_by_cast(block: suite.Array, dtype: np.dtype[Any]) -> NDArray[np.bool_]:
    """Whether each value is finite and survives; floats may round, but not overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        cast = block.astype(dtype, copy=False)
        if dtype.kind == "f" and block.dtype.kind == "f":
            return np.asarray(np.isfinite(cast))
        # Compared both ways: 200 wraps to int8 and back, and 2**53 + 1 equals its own rounding.
        back = cast.astype(block.dtype, copy=False)
        return np.asarray(np.isfinite(block) & (cast == block) & (back == block))


def _load_pixels(
    array: NDArray[np.uint8], spec: prep.InputSpec, preprocessing: prep.Preprocessing, where: str
) -> prep.PixelImages:
    pixels = _channels_last(array, spec, where)
    channels = spec.channels or pixels.shape[-1]
    if pixels.shape[-1] != channels and {pixels.shape[-1], channels} != {1, 3}:
        raise errors.DataError(
            f"{where}: its images have {pixels.shape[-1]} channels and the model takes {channels}; "
            "give x in the model's shape"
        )
    table = prep.value_table(preprocessing, channels, spec.dtype)
    pixels = _to_size(pixels, spec, preprocessing, where)
    if preprocessing.color == "bgr":
        if channels != 3:
            raise errors.SettingsError(
                f"color 'bgr' needs 3 channels and the model takes {channels}"
            )
        pixels = pixels[..., ::-1]
    return prep.PixelImages(pixels, table, channels_first=spec.layout == "nchw")


def _channels_last(array: NDArray[np.uint8], spec: prep.InputSpec, where: str) -> NDArray[np.uint8]:
    if array.ndim == 3:
        return array[..., None]
    if array.ndim != 4:
        raise errors.DataError(
            f"{where}: has shape {prep.describe_shape(array.shape)}; expected uint8 images "
            "N x H x W, N x H x W x C or N x C x H x W"
        )
    wanted = {1: (1, 3), 3: (3, 1), None: (1, 3)}.get(spec.channels, (spec.channels,))
    first, last = array.shape[1] in wanted, array.shape[3] in wanted
    if first and last:
        # Both ends could be channels: trust the model's channel count, then its layout.
        exact = (array.shape[1] == spec.channels, array.shape[3] == spec.channels)
        first = exact[0] if exact[0] != exact[1] else spec.layout == "nchw"
    elif not first and not last:
        raise errors.DataError(
            f"{where}: has shape {prep.describe_shape(array.shape)} and the model takes "
            f"{prep.describe_shape(spec.shape)} (layout {spec.layout}); neither the second nor the "
            "last axis can be its channels"
        )
    return array.transpose(0, 2, 3, 1) if first else array


def _to_size(
    pixels: NDArray[np.uint8], spec: prep.InputSpec, preprocessing: prep.Preprocessing, where: str
) -> NDArray[np.uint8]:
    geometry = plan_geometry(spec, preprocessing)
    n_images, height, width, n_stored = pixels.shape
    channels = spec.channels or n_stored
    resizes = not _is_final(geometry, (height, width))
    if not resizes and (n_stored, channels) != (3, 1):
        return np.broadcast_to(pixels, (n_images, height, width, channels))
    if not resizes:
        geometry = Geometry(None, None, geometry.wanted)
    try:
        first = resize_pixels(pixels[0], geometry, channels)
    except errors.DataError as error:
        raise errors.DataError(f"{where}: {error}") from error
    if not geometry.fits(first.shape[:2]):
        raise errors.DataError(
            f"{where}: its images have {first.shape[0]} x {first.shape[1]} pixels and the model "
            f"takes {prep.describe_shape(geometry.wanted)} (height x width); set resize"
        )
    stored = allocate_pixels((n_images, *first.shape))
    for index, image in enumerate(pixels):
        stored[index] = resize_pixels(image, geometry, channels)
    return stored


def _is_final(geometry: Geometry, size: tuple[int, int]) -> bool:
    if geometry.final_size is not None:
        return size == geometry.final_size
    return geometry.resize is None and geometry.fits(size)


Further = tuple[dict[str, suite.ImageSource], dict[str, suite.Array]]
"""Rows, one per image, and constants, by the names of inputs."""


def take_arrays(
    arrays: dict[str, suite.Array],
    inputs: Sequence[prep.FurtherInput],
    n_images: int,
    preprocessing: prep.Preprocessing,
    where: str,
) -> Further:
    """Take the arrays that are named as inputs out of an archive.

    An array with a row per image is fed row by row where the input has the images on its first
    axis. One of just the input's shape is a constant for all images.

    Raises:
        DataError: an array fits neither way, or its values do not fit the input's type.
    """
    rows: dict[str, suite.ImageSource] = {}
    constants: dict[str, suite.Array] = {}
    for wanted in inputs:
        if wanted.name not in arrays:
            continue
        array = arrays.pop(wanted.name)
        place = f"{where}: {wanted.name}"
        if wanted.per_image and array.ndim and len(array) == n_images:
            rows[wanted.name] = _rows(array, wanted, preprocessing, place)
        elif prep.shape_fits(array.shape, wanted.single):
            constants[wanted.name] = _cast(array, wanted, place)
        elif wanted.per_image and prep.shape_fits(array.shape, wanted.single[1:]):
            constants[wanted.name] = _cast(array[None], wanted, place)
        else:
            raise errors.DataError(
                f"{place} has shape {prep.describe_shape(array.shape)}; the model's input takes "
                f"{prep.describe_shape(wanted.single)}"
                + (f", or one row for each of the {n_images} images" if wanted.per_image else "")
            )
    return rows, constants


def take_columns(
    columns: Mapping[str, suite.Array], inputs: Sequence[prep.FurtherInput], where: str
) -> dict[str, suite.ImageSource]:
    """The columns of a table that are named as inputs, one number per image.

    Raises:
        DataError: a column holds no numbers, or the input takes more than one number per image.
    """
    rows: dict[str, suite.ImageSource] = {}
    for wanted in inputs:
        if wanted.name not in columns:
            continue
        column, place = columns[wanted.name], f"{where}: column {wanted.name}"
        single = wanted.single[1:]
        if not wanted.per_image or not all(size in (None, 1) for size in single):
            raise errors.DataError(
                f"{place} holds one number per image and the model's input takes "
                f"{prep.describe_shape(wanted.single)}; give an .npz with an array of that name, "
                "or a constant with --input"
            )
        shaped = column.reshape(len(column), *[1] * len(single))
        rows[wanted.name] = prep.ReadyImages(_cast(shaped, wanted, place), wanted.dtype)
    return rows


def _rows(
    array: suite.Array, wanted: prep.FurtherInput, preprocessing: prep.Preprocessing, place: str
) -> suite.ImageSource:
    single = wanted.single[1:]
    if array.ndim == 1 and all(size in (None, 1) for size in single):
        array = array.reshape(len(array), *[1] * len(single))
    if len(single) == 3 and array.dtype == np.uint8 and wanted.dtype.kind == "f":
        layout = "nhwc" if single[2] in (1, 3, 4) and single[0] not in (1, 3, 4) else "nchw"
        spec = prep.InputSpec(layout, single, wanted.dtype)
        return load_array(
            array, spec.with_layout(preprocessing.layout), preprocessing, place
        ).images
    if not prep.shape_fits(array.shape[1:], single):
        raise errors.DataError(
            f"{place} holds rows of {prep.describe_shape(array.shape[1:])} and the model's input "
            f"takes {prep.describe_shape(single)}"
        )
    return prep.ReadyImages(_cast(array, wanted, place), wanted.dtype)


def _cast(array: suite.Array, wanted: prep.FurtherInput, place: str) -> suite.Array:
    """The array in the input's type, where that holds its values."""
    if wanted.dtype.kind not in "fiub" or array.dtype.kind not in "fiub":
        if wanted.dtype.kind == "O" and array.dtype.kind == "U":
            return array.astype(object)
        raise errors.DataError(
            f"{place} holds {array.dtype} and the model's input takes {wanted.dtype}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(wanted.dtype)
        kept = np.isfinite(cast) if wanted.dtype.kind == "f" else cast == array
    if not np.all(kept):
        raise errors.DataError(
            f"{place} holds values that are not finite or that {wanted.dtype} cannot hold"
        )
    return cast
