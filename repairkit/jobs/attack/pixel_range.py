"""What the darkest and the brightest pixel are in the scale of the model's input."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from repairkit.attacks import PixelBox
from repairkit.data import Dataset, InputSpec, Preprocessing
from repairkit.data.pixels.images import PixelImages
from repairkit.data.pixels.preprocessing import value_table

_BLOCK = 1024


def pixel_range(
    dataset: Dataset,
    spec: InputSpec,
    preprocessing: Preprocessing,
    given: tuple[float, float] | None,
) -> tuple[PixelBox, str]:
    """The pixel range, and a sentence on where it comes from.

    What was given comes first. Images that were read as 8-bit pixels have theirs from the
    preprocessing, and so do arrays that are ready for the model where scale, mean or std are set.
    Other arrays are taken to span the range from their least value to their greatest.

    Raises:
        SettingsError: the range is empty, or the preprocessing does not fit the model.
    """
    axis = 2 if (preprocessing.layout or spec.layout) == "nhwc" else 0
    if given is not None:
        low, high = np.array(given)[:, None]
        return _box(low, high, axis, spec), f"given as {given[0]:g} to {given[1]:g}"
    if isinstance(dataset.images, PixelImages):
        table = dataset.images.table
        return _box(table[:, 0], table[:, -1], axis, spec), "8-bit pixels, preprocessed"
    scaled = Preprocessing(
        scale=preprocessing.scale, mean=preprocessing.mean, std=preprocessing.std
    )
    if scaled != Preprocessing():
        channels = spec.channels or max(len(scaled.mean), len(scaled.std), 1)
        table = value_table(scaled, channels, spec.dtype)
        told = "scale, mean and std of the preprocessing, taken to have made the ready images"
        return _box(table[:, 0], table[:, -1], axis, spec), told
    low, high = _ends(dataset)
    told = (
        f"the least and the greatest value of the ready images, {low:g} and {high:g}; give "
        "--range LOW,HIGH if pixels may go further"
    )
    return _box(np.array([low]), np.array([high]), axis, spec), told


def _box(
    low: NDArray[np.generic], high: NDArray[np.generic], axis: int, spec: InputSpec
) -> PixelBox:
    shape = (-1, 1, 1) if axis == 0 else (1, 1, -1)
    dtype = spec.dtype
    return PixelBox(low.astype(dtype).reshape(shape), high.astype(dtype).reshape(shape), axis)


def _ends(dataset: Dataset) -> tuple[float, float]:
    rows = np.arange(len(dataset.images))
    blocks = [dataset.images.batch(rows[i : i + _BLOCK]) for i in range(0, len(rows), _BLOCK)]
    return min(float(b.min()) for b in blocks), max(float(b.max()) for b in blocks)
