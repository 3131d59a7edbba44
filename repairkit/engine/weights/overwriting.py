"""Write absent filters into cached tensors, lane by lane, and take it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.suite import Array
from repairkit.engine.ort import memory_of
from repairkit.engine.weights.compiled import Compiled, Overwrite
from repairkit.engine.weights.routes import Row

Undo = list[tuple[Array, NDArray[np.intp], Array]]
"""Lanes of a tensor, the channels that were written, and what was there."""


def overwrite(
    compiled: Compiled, sites: tuple[int, ...], live: Mapping[str, Any], held: Row, wanted: Row
) -> tuple[Undo, bool]:
    """Freeze what `held` has and `wanted` lacks of the filters of `sites`, in `live`'s tensors.

    Returns:
        How to take it back, and whether any bit was changed at all.
    """
    undo: Undo = []
    differs = False
    for k in sites:
        how, site = compiled.overwrites[k], compiled.roster.sites[k]
        assert how is not None
        own = compiled.roster.slices[site.name]
        channels = np.flatnonzero(held[own] & ~wanted[own])
        lanes = _lanes(memory_of(live[how.tensor]), how.block)
        before = _read(lanes, channels)
        undo.append((lanes, channels, before))
        absent = _absent(how, channels, live, compiled.means[site.name])
        _write(lanes, channels, absent)
        differs = differs or not _same_bits(before, absent)
    return undo, differs


def put_back(undo: Undo) -> None:
    """Restore what was overwritten."""
    for lanes, channels, saved in undo:
        _write(lanes, channels, saved)


def _absent(
    how: Overwrite, channels: NDArray[np.intp], live: Mapping[str, Any], levels: Array
) -> Array:
    """What lanes hold without their filters: (n_channels, 1 or n_images, n_positions)."""
    if how.absent is not None:
        rows, lanes = channels // how.block, channels % how.block
        constant: Array = how.absent[rows, :, lanes][:, None]
        return constant
    added = _read(_lanes(live[how.added].numpy(), how.block), channels)
    added += levels[channels][:, None, None]
    return np.maximum(added, 0, out=added) if how.relu else added


def _same_bits(some: Array, others: Array) -> bool:
    kind = f"u{some.itemsize}"  # so that zero is told from minus zero
    return bool((some.view(kind) == others.view(kind)).all())


def _lanes(tensor: Array, block: int) -> Array:
    """A view of shape (n_images, n_blocks, n_positions, block)."""
    view = tensor.reshape(tensor.shape[0], tensor.shape[1] // block, -1, block)
    assert np.shares_memory(view, tensor)
    return view


def _read(lanes: Array, channels: NDArray[np.intp]) -> Array:
    """A copy, (n_channels, n_images, n_positions)."""
    block = lanes.shape[3]
    if len(channels) == 1:
        c = int(channels[0])
        return lanes[None, :, c // block, :, c % block].copy()
    many: Array = lanes[:, channels // block, :, channels % block]
    return many


def _write(lanes: Array, channels: NDArray[np.intp], values: Array) -> None:
    block = lanes.shape[3]
    if len(channels) == 1:
        c = int(channels[0])
        lanes[:, c // block, :, c % block] = values[0]
    else:
        lanes[:, channels // block, :, channels % block] = values
