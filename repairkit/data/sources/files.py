"""Image files to stored pixels: decoded once, by several threads, in the order given."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import DataError, SettingsError
from repairkit.core.process.stages import stage
from repairkit.data.dataset import LoadedImages, copies_note
from repairkit.data.pixels.decoding import Decoded, ImageFile, decode
from repairkit.data.pixels.geometry import Geometry, plan_geometry
from repairkit.data.pixels.images import PixelImages
from repairkit.data.pixels.preprocessing import Preprocessing, value_table
from repairkit.data.pixels.spec import InputSpec, describe_shape
from repairkit.data.pixels.storage import allocate_pixels

_CHANNELS = {"gray": 1, "rgb": 3, "bgr": 3}
_MAX_THREADS = 16


def load_files(
    files: Sequence[ImageFile], spec: InputSpec, preprocessing: Preprocessing
) -> LoadedImages:
    """Decode every file to the model's size and colours; at least one file.

    Raises:
        DataError: a file cannot be decoded, or sizes differ where the model needs one.
        SettingsError: the preprocessing does not fit the model's input.
    """
    color = _color(spec, preprocessing)
    geometry = plan_geometry(spec, preprocessing)
    table = value_table(preprocessing, _CHANNELS[color], spec.dtype)
    with _quiet_pillow():
        first = decode(files[0], color, geometry).pixels
        _check_size(files[0], first, geometry)
        pixels = allocate_pixels((len(files), *first.shape))

        def store(index: int) -> Decoded:
            decoded = decode(files[index], color, geometry)
            if decoded.pixels.shape != first.shape:
                raise DataError(_uneven(files[index], decoded.pixels, files[0], first))
            pixels[index] = decoded.pixels
            return replace(decoded, pixels=first)

        read = _map_in_threads(store, len(files))
    digests = [decoded.digest for decoded in read]
    return LoadedImages(
        PixelImages(pixels, table, channels_first=spec.layout == "nchw"),
        hashlib.sha256("\n".join(digests).encode()).hexdigest(),
        (*copies_note(digests), *_frames_note(read)),
    )


def _color(spec: InputSpec, preprocessing: Preprocessing) -> str:
    if spec.layout == "other":
        raise DataError(
            f"the model takes {describe_shape(spec.shape)} per image, which no image file gives; "
            "give --data as a .npz whose x is ready for the model"
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
            found = []
            for name in pool.map(store, range(n_files)):
                found.append(name)
                tell(len(found))
            return found
    finally:
        # After an error, the files not yet begun are not worth waiting for.
        pool.shutdown(cancel_futures=True)


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    # Pillow warns of odd metadata; what matters is judged in `decode`, without warnings.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_size(file: ImageFile, pixels: NDArray[np.uint8], geometry: Geometry) -> None:
    height, width = pixels.shape[:2]
    if not geometry.fits((height, width)):
        raise DataError(
            f"{file.place}: has {height} x {width} pixels and the model takes "
            f"{describe_shape(geometry.wanted)} (height x width); set resize"
        )


def _uneven(
    file: ImageFile, pixels: NDArray[np.uint8], first_file: ImageFile, first: NDArray[np.uint8]
) -> str:
    return (
        f"{file.place}: has {describe_shape(pixels.shape[:2])} pixels and {first_file.place} has "
        f"{describe_shape(first.shape[:2])}; the model fixes no size, so set "
        "resize = [height, width]"
    )


def _frames_note(read: Sequence[Decoded]) -> tuple[str, ...]:
    n_files = sum(decoded.n_frames > 1 for decoded in read)
    if not n_files:
        return ()
    return (f"{n_files} image file(s) hold several frames or pages, of which the first was read",)
