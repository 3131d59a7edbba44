"""A worker's own weights and masks, edited in place: a coalition is what they hold."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.filters import FilterMeans, Roster
from repairkit.core.suite import Array
from repairkit.engine.ort import Call, as_value
from repairkit.graph.coalitions.cones import Slice, Switch

Channels = NDArray[np.intp]


class Workspace:
    """Weights of all sites in memory that the runtime reads; not for two threads at once.

    `values` are the runtime inputs by name, `calls` the slices that were bound to them. `present`
    (n_players,) is the coalition they hold.
    """

    def __init__(
        self,
        roster: Roster,
        switches: tuple[Switch, ...],
        trained: Mapping[str, NDArray[np.float32]],
        means: FilterMeans,
    ) -> None:
        self.present = np.ones(len(roster), bool)
        self.values: dict[str, Any] = {}
        self.calls: dict[Slice, Call] = {}
        self._sites = []
        starts = [roster.slices[s.site].start for s in switches]
        self._starts = np.array([*starts, len(roster)])
        for switch in switches:
            site = _Weights(switch, trained, means[switch.site]) if switch.kernel else _Mask(switch)
            self._sites.append(site)
            self.values.update({name: as_value(a) for name, a in site.arrays.items()})

    def hold(self, coalition: NDArray[np.bool_]) -> None:
        """Make the weights those of a coalition."""
        changed = np.flatnonzero(self.present != coalition)
        if not len(changed):
            return
        ends = np.searchsorted(changed, self._starts)
        for site in np.flatnonzero(np.diff(ends)).tolist():
            channels = changed[ends[site] : ends[site + 1]]
            own = slice(self._starts[site], self._starts[site + 1])
            self._sites[site].turn(channels - own.start, coalition[own])
        self.present[:] = coalition


class _Weights:
    """The kernel and bias of a site in weight space."""

    def __init__(
        self, switch: Switch, trained: Mapping[str, NDArray[np.float32]], levels: Array
    ) -> None:
        kernel, bias = trained[switch.kernel], trained[switch.bias]
        self.arrays = {switch.kernel: kernel.copy(), switch.bias: bias.copy()}
        # Lanes are turned off as bits, many positions at a time; infinity times zero is no number.
        repeats, n_rows = _divisor(kernel.size // kernel.shape[0]), len(kernel) // switch.block
        shape = (n_rows, -1, repeats * switch.block)
        self._bits = np.zeros(len(kernel), np.int32)
        self._mask = np.zeros((n_rows, repeats, switch.block), np.int32)
        self._mask_rows = self._mask.reshape(n_rows, 1, -1)
        self._lanes = self.arrays[switch.kernel].view(np.int32).reshape(shape)
        self._trained, self._trained_bias = kernel.view(np.int32).reshape(shape), bias
        self._bias, self._levels, self._block = self.arrays[switch.bias], levels, switch.block

    def turn(self, channels: Channels, present: NDArray[np.bool_]) -> None:
        """Turn `channels` on or off, as `present` (n_channels,) says."""
        on = present[channels]
        self._bias[channels] = np.where(on, self._trained_bias[channels], self._levels[channels])
        self._bits[: len(present)] = present
        np.negative(self._bits, out=self._bits)  # all bits of a lane that is on
        if 2 * len(channels) > len(self._lanes):
            self._mask[...] = self._bits.reshape(-1, 1, self._block)
            np.bitwise_and(self._trained, self._mask_rows, out=self._lanes)
            return
        for row in set((channels // self._block).tolist()):
            self._mask[row] = self._bits[row * self._block : (row + 1) * self._block]
            np.bitwise_and(self._trained[row], self._mask_rows[row], out=self._lanes[row])


def _divisor(n: int, at_most: int = 64) -> int:
    """The largest divisor of a number that is not too large."""
    return next(d for d in range(at_most, 0, -1) if n % d == 0)


class _Mask:
    """The mask of a site that is turned off by a `Where`."""

    def __init__(self, switch: Switch) -> None:
        mask = np.ones(switch.mask, bool)
        self.arrays = {switch.bias: mask}
        self._flat = mask.reshape(-1)

    def turn(self, channels: Channels, present: NDArray[np.bool_]) -> None:
        """Turn `channels` on or off, as `present` (n_channels,) says."""
        self._flat[channels] = present[channels]


class Workspaces:
    """Workspaces that are lent out, as many as are in use at once."""

    def __init__(
        self,
        roster: Roster,
        switches: tuple[Switch, ...],
        trained: Mapping[str, NDArray[np.float32]],
        means: FilterMeans,
    ) -> None:
        self._parts = (roster, switches, trained, means)
        self._free: list[Workspace] = []
        self._lock = threading.Lock()

    @contextmanager
    def lend(self) -> Iterator[Workspace]:
        """A workspace for one thread, until the block ends."""
        with self._lock:
            workspace = self._free.pop() if self._free else None
        workspace = Workspace(*self._parts) if workspace is None else workspace
        try:
            yield workspace
        finally:
            with self._lock:
                self._free.append(workspace)
