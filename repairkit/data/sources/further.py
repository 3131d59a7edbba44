"""What a model takes beside its images: numbers of the data that bear the name of an input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from repairkit.core.arrays import Array
from repairkit.core.errors import DataError
from repairkit.core.suite import ImageSource
from repairkit.data.pixels.images import ReadyImages
from repairkit.data.pixels.preprocessing import Preprocessing
from repairkit.data.pixels.spec import FurtherInput, InputSpec, describe_shape
from repairkit.data.sources.arrays import load_array

Further = tuple[dict[str, ImageSource], dict[str, Array]]
"""Rows, one per image, and constants, by the names of inputs."""


def take_arrays(
    arrays: dict[str, Array],
    inputs: Sequence[FurtherInput],
    n_images: int,
    preprocessing: Preprocessing,
    where: str,
) -> Further:
    """Take the arrays that are named as inputs out of an archive.

    An array with a row per image is fed row by row where the input has the images on its first
    axis. One of just the input's shape is a constant for all images.

    Raises:
        DataError: an array fits neither way, or its values do not fit the input's type.
    """
    rows: dict[str, ImageSource] = {}
    constants: dict[str, Array] = {}
    for wanted in inputs:
        if wanted.name not in arrays:
            continue
        array = arrays.pop(wanted.name)
        place = f"{where}: {wanted.name}"
        if wanted.per_image and array.ndim and len(array) == n_images:
            rows[wanted.name] = _rows(array, wanted, preprocessing, place)
        elif _fits(array.shape, wanted.single):
            constants[wanted.name] = _cast(array, wanted, place)
        elif wanted.per_image and _fits(array.shape, wanted.single[1:]):
            constants[wanted.name] = _cast(array[None], wanted, place)
        else:
            raise DataError(
                f"{place} has shape {describe_shape(array.shape)}; the model's input takes "
                f"{describe_shape(wanted.single)}"
                + (f", or one row for each of the {n_images} images" if wanted.per_image else "")
            )
    return rows, constants


def take_columns(
    columns: Mapping[str, Array], inputs: Sequence[FurtherInput], where: str
) -> dict[str, ImageSource]:
    """The columns of a table that are named as inputs, one number per image.

    Raises:
        DataError: a column holds no numbers, or the input takes more than one number per image.
    """
    rows: dict[str, ImageSource] = {}
    for wanted in inputs:
        if wanted.name not in columns:
            continue
        column, place = columns[wanted.name], f"{where}: column {wanted.name}"
        single = wanted.single[1:]
        if not wanted.per_image or not all(size in (None, 1) for size in single):
            raise DataError(
                f"{place} holds one number per image and the model's input takes "
                f"{describe_shape(wanted.single)}; give an .npz with an array of that name, or a "
                "constant with --input"
            )
        shaped = column.reshape(len(column), *[1] * len(single))
        rows[wanted.name] = ReadyImages(_cast(shaped, wanted, place), wanted.dtype)
    return rows


def _rows(
    array: Array, wanted: FurtherInput, preprocessing: Preprocessing, place: str
) -> ImageSource:
    single = wanted.single[1:]
    if array.ndim == 1 and all(size in (None, 1) for size in single):
        array = array.reshape(len(array), *[1] * len(single))
    if len(single) == 3 and array.dtype == np.uint8 and wanted.dtype.kind == "f":
        layout = "nhwc" if single[2] in (1, 3, 4) and single[0] not in (1, 3, 4) else "nchw"
        spec = InputSpec(layout, single, wanted.dtype)
        return load_array(
            array, spec.with_layout(preprocessing.layout), preprocessing, place
        ).images
    if not _fits(array.shape[1:], single):
        raise DataError(
            f"{place} holds rows of {describe_shape(array.shape[1:])} and the model's input takes "
            f"{describe_shape(single)}"
        )
    return ReadyImages(_cast(array, wanted, place), wanted.dtype)


def _fits(shape: Sequence[int], wanted: Sequence[int | None]) -> bool:
    return len(shape) == len(wanted) and all(
        want in (None, have) for have, want in zip(shape, wanted, strict=True)
    )


def _cast(array: Array, wanted: FurtherInput, place: str) -> Array:
    """The array in the input's type, where that holds its values."""
    if wanted.dtype.kind not in "fiub" or array.dtype.kind not in "fiub":
        if wanted.dtype.kind == "O" and array.dtype.kind == "U":
            return array.astype(object)
        raise DataError(f"{place} holds {array.dtype} and the model's input takes {wanted.dtype}")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(wanted.dtype)
        kept = np.isfinite(cast) if wanted.dtype.kind == "f" else cast == array
    if not np.all(kept):
        raise DataError(
            f"{place} holds values that are not finite or that {wanted.dtype} cannot hold"
        )
    return cast
