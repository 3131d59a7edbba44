"""The image array of an `.npz`: ready for the model, or 8-bit images yet to be preprocessed."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.arrays import Array
from repairkit.core.errors import DataError, SettingsError
from repairkit.data.dataset import LoadedImages, copies_note, digest_array
from repairkit.data.pixels.geometry import Geometry, plan_geometry, resize_pixels
from repairkit.data.pixels.images import PixelImages, ReadyImages
from repairkit.data.pixels.preprocessing import Preprocessing, value_table
from repairkit.data.pixels.spec import InputSpec, describe_shape, is_tabular
from repairkit.data.pixels.storage import allocate_pixels

_BLOCK = 256


def load_array(
    array: Array, spec: InputSpec, preprocessing: Preprocessing, where: str
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
    if preprocessing != Preprocessing(layout=preprocessing.layout):
        notes.append("x is ready for the model, so no preprocessing was applied to it")
    elif array.dtype.kind in "iu" and spec.dtype.kind == "f":
        notes.append(f"x holds {array.dtype} and was passed to the model as it is, unscaled")
    if not is_tabular(spec):
        notes += _copies(array)
    return LoadedImages(ReadyImages(array, spec.dtype), digest.hexdigest(), tuple(notes))


def _copies(array: Array) -> tuple[str, ...]:
    return copies_note([hashlib.blake2b(image.tobytes()).hexdigest() for image in array])


def _check_ready(array: Array, spec: InputSpec, where: str) -> int:
    """Refuse what the model cannot take; the number of missing values, which only rows may have."""
    found = array.shape[1:]
    fits = len(found) == len(spec.shape) and all(
        want in (None, have) for want, have in zip(spec.shape, found, strict=True)
    )
    if not fits:
        raise DataError(
            f"{where}: holds images of {describe_shape(found)} and the model takes "
            f"{describe_shape(spec.shape)} (layout {spec.layout}); give x in the model's shape, "
            "or as uint8 images"
        )
    if array.dtype.kind not in "fiub" or spec.dtype.kind not in "fiub":
        raise DataError(
            f"{where}: holds {array.dtype} and the model takes {spec.dtype}; give numbers"
        )
    n_missing = 0
    for start in range(0, len(array), _BLOCK):
        block = array[start : start + _BLOCK]
        kept = _kept_by_cast(block, spec.dtype)
        if is_tabular(spec) and spec.dtype.kind == block.dtype.kind == "f":
            missing = np.isnan(block)
            kept, n_missing = kept | missing, n_missing + int(missing.sum())
        bad = ~kept.reshape(len(block), -1).all(axis=1)
        if bad.any():
            raise DataError(
                f"{where}[{start + int(bad.argmax())}]: holds values that are not finite or that "
                f"{spec.dtype} cannot hold without change (x is {array.dtype}); convert x to "
                f"{spec.dtype} yourself"
            )
    return n_missing


def _kept_by_cast(block: Array, dtype: np.dtype[Any]) -> NDArray[np.bool_]:
    """Whether each value is finite and survives; floats may round, but not overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        cast = block.astype(dtype, copy=False)
        if dtype.kind == "f" and block.dtype.kind == "f":
            return np.asarray(np.isfinite(cast))
        # Compared both ways: 200 wraps to int8 and back, and 2**53 + 1 equals its own rounding.
        back = cast.astype(block.dtype, copy=False)
        return np.asarray(np.isfinite(block) & (cast == block) & (back == block))


def _load_pixels(
    array: NDArray[np.uint8], spec: InputSpec, preprocessing: Preprocessing, where: str
) -> PixelImages:
    pixels = _channels_last(array, spec, where)
    channels = spec.channels or pixels.shape[-1]
    if pixels.shape[-1] != channels and {pixels.shape[-1], channels} != {1, 3}:
        raise DataError(
            f"{where}: its images have {pixels.shape[-1]} channels and the model takes {channels}; "
            "give x in the model's shape"
        )
    table = value_table(preprocessing, channels, spec.dtype)
    pixels = _to_size(pixels, spec, preprocessing, where)
    if preprocessing.color == "bgr":
        if channels != 3:
            raise SettingsError(f"color 'bgr' needs 3 channels and the model takes {channels}")
        pixels = pixels[..., ::-1]
    return PixelImages(pixels, table, channels_first=spec.layout == "nchw")


def _channels_last(array: NDArray[np.uint8], spec: InputSpec, where: str) -> NDArray[np.uint8]:
    if array.ndim == 3:
        return array[..., None]
    if array.ndim != 4:
        raise DataError(
            f"{where}: has shape {describe_shape(array.shape)}; expected uint8 images N x H x W, "
            "N x H x W x C or N x C x H x W"
        )
    wanted = {1: (1, 3), 3: (3, 1), None: (1, 3)}.get(spec.channels, (spec.channels,))
    first, last = array.shape[1] in wanted, array.shape[3] in wanted
    if first and last:
        # Both ends could be channels: trust the model's channel count, then its layout.
        exact = (array.shape[1] == spec.channels, array.shape[3] == spec.channels)
        first = exact[0] if exact[0] != exact[1] else spec.layout == "nchw"
    elif not first and not last:
        raise DataError(
            f"{where}: has shape {describe_shape(array.shape)} and the model takes "
            f"{describe_shape(spec.shape)} (layout {spec.layout}); neither the second nor the "
            "last axis can be its channels"
        )
    return array.transpose(0, 2, 3, 1) if first else array


def _to_size(
    pixels: NDArray[np.uint8], spec: InputSpec, preprocessing: Preprocessing, where: str
) -> NDArray[np.uint8]:
    geometry = plan_geometry(spec, preprocessing)
    n_images, height, width, found = pixels.shape
    channels = spec.channels or found
    resizes = not _is_final(geometry, (height, width))
    if not resizes and (found, channels) != (3, 1):
        return np.broadcast_to(pixels, (n_images, height, width, channels))
    if not resizes:
        geometry = Geometry(None, None, geometry.wanted)
    try:
        first = resize_pixels(pixels[0], geometry, channels)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    if not geometry.fits(first.shape[:2]):
        raise DataError(
            f"{where}: its images have {first.shape[0]} x {first.shape[1]} pixels and the model "
            f"takes {describe_shape(geometry.wanted)} (height x width); set resize"
        )
    stored = allocate_pixels((n_images, *first.shape))
    for index, image in enumerate(pixels):
        stored[index] = resize_pixels(image, geometry, channels)
    return stored


def _is_final(geometry: Geometry, size: tuple[int, int]) -> bool:
    if geometry.final_size is not None:
        return size == geometry.final_size
    return geometry.resize is None and geometry.fits(size)
