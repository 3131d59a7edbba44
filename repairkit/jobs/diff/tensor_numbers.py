"""How the numbers of two stored tensors differ; read piece by piece, however large they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.suite import Array
from repairkit.jobs.diff.graph_view import CHUNK, Stored

_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass(frozen=True, kw_only=True)
class NumberChanges:
    """How the elements of two tensors of one shape differ.

    Attributes:
        n_differ: elements whose bytes differ; of two element types, whose numbers differ.
        n_elements: of each tensor.
        largest_absolute: the largest |b - a| over elements that are finite in both.
        largest_relative: the largest |b - a| / max(|a|, |b|) over these.
        n_not_finite: elements that differ, and of which one is infinite or no number.
        channels: positions on the channel axis that hold an element that differs.
    """

    n_differ: int
    n_elements: int
    largest_absolute: float
    largest_relative: float
    n_not_finite: int
    channels: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "n_differ": self.n_differ,
            "n_elements": self.n_elements,
            "largest_absolute": self.largest_absolute,
            "largest_relative": self.largest_relative,
            "n_not_finite": self.n_not_finite,
            "channels": list(self.channels),
        }


def compare_numbers(a: Stored, b: Stored, channel_axis: int) -> NumberChanges | None:
    """How the elements of two tensors differ; None for tensors of two shapes.

    Args:
        a: the one.
        b: the other.
        channel_axis: along which channels are counted.
    """
    if a.shape != b.shape:
        return None
    ours, theirs = a.read().reshape(-1), b.read().reshape(-1)
    stride = math.prod(a.shape[channel_axis + 1 :])
    n_channels = a.shape[channel_axis] if a.shape else 1
    touched = np.zeros(n_channels, bool)
    n_differ = n_not_finite = 0
    absolute = relative = 0.0
    for start in range(0, ours.size, CHUNK):
        one, other = ours[start : start + CHUNK], theirs[start : start + CHUNK]
        places = np.flatnonzero(_differ(one, other))
        if not len(places):
            continue
        n_differ += len(places)
        touched[(places + start) // stride % n_channels] = True
        if one.dtype == object or other.dtype == object:
            continue
        moved, share, odd = _distances(one[places], other[places])
        absolute, relative = max(absolute, moved), max(relative, share)
        n_not_finite += odd
    return NumberChanges(
        n_differ=n_differ,
        n_elements=ours.size,
        largest_absolute=absolute,
        largest_relative=relative,
        n_not_finite=n_not_finite,
        channels=tuple(np.flatnonzero(touched).tolist()),
    )


def _differ(one: Array, other: Array) -> NDArray[np.bool_]:
    """Which elements differ: by their bytes, or by value where the types differ."""
    if object in (one.dtype, other.dtype):
        return np.array([x != y for x, y in zip(one.tolist(), other.tolist(), strict=True)], bool)
    if one.dtype != other.dtype:
        ours, theirs = _as_numbers(one), _as_numbers(other)
        return np.asarray(~((ours == theirs) | (np.isnan(ours) & np.isnan(theirs))))
    kind = _UNSIGNED.get(one.dtype.itemsize)
    if kind is None:
        return np.asarray(one != other, bool)
    return np.asarray(
        np.ascontiguousarray(one).view(kind) != np.ascontiguousarray(other).view(kind)
    )


def _as_numbers(array: Array) -> NDArray[np.float64]:
    with np.errstate(all="ignore"):
        if array.dtype.kind == "c":
            return np.abs(array).astype(np.float64)
        return array.astype(np.float64)


def _distances(one: Array, other: Array) -> tuple[float, float, int]:
    """The largest absolute and relative distance, and the number of elements without one."""
    if one.dtype == other.dtype and one.dtype.kind == "c":
        moved, sizes = np.abs(other - one), np.maximum(np.abs(one), np.abs(other))
    else:
        ours, theirs = _as_numbers(one), _as_numbers(other)
        with np.errstate(all="ignore"):
            moved = np.abs(theirs - ours)
        sizes = np.maximum(np.abs(ours), np.abs(theirs))
    finite = np.isfinite(moved) & np.isfinite(sizes)
    if not finite.any():
        return 0.0, 0.0, len(moved)
    near, far = moved[finite].astype(np.float64), sizes[finite].astype(np.float64)
    shares = np.divide(near, far, out=np.zeros_like(near), where=far > 0)
    return float(near.max()), float(shares.max()), int((~finite).sum())
