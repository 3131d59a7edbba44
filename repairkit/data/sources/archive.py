"""The arrays of an `.npz`, read without pickle and without trusting what the file claims."""

import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from repairkit.core import errors, suite
from repairkit.core.process.text import first_line

MAX_BYTES = 64 << 30
# Images hardly ever pack better than this; a bomb packs a thousand to one.
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
            return {_name(path, member): _read(path, archive, member) for member in members}
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


def _read(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> suite.Array:
    with warnings.catch_warnings():
        # That Python 2 wrote a header does not matter.
        warnings.simplefilter("ignore", UserWarning)
        with archive.open(member) as file:
            _check_header(f"{path}: {_name(path, member)}", file, member.file_size)
        with archive.open(member) as file:
            array: suite.Array = npy.read_array(file, allow_pickle=False)
            # Reading to the end makes zipfile compare the checksum.
            file.read(1)
    if array.dtype.kind == "U" and (_codes(array) > _LAST_CHARACTER).any():
        raise errors.DataError(f"{path}: {_name(path, member)}: holds text that no character has")
    return array


def _codes(array: NDArray[np.str_]) -> NDArray[np.uint32]:
    return np.ascontiguousarray(array).view(np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))


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
