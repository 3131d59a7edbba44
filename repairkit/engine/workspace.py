"""A worker's own weights and masks, edited in place: a coalition is what they hold."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.filters import FilterMeans, Roster
from repairkit.engine.sessions import as_value
from repairkit.graph.switches import Switch

Channels = NDArray[np.intp]


class Workspace:
    """Weights of all sites in memory that the runtime reads; not for two threads at once.

    `values` are the runtime inputs by name. `present` (n_players,) is the coalition they hold.
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
        self, switch: Switch, trained: Mapping[str, NDArray[np.float32]], levels: NDArray[Any]
    ) -> None:
        kernel, bias = trained[switch.kernel], trained[switch.bias]
        self.arrays = {switch.kernel: kernel.copy(), switch.bias: bias.copy()}
        shape = (kernel.shape[0] // switch.block, -1, switch.block)
        self._trained_lanes, self._trained_bias = kernel.reshape(shape), bias
        self._lanes = self.arrays[switch.kernel].reshape(shape)
        self._bias, self._levels, self._block = self.arrays[switch.bias], levels, switch.block

    def turn(self, channels: Channels, present: NDArray[np.bool_]) -> None:
        """Turn `channels` on or off, as `present` (n_channels,) says."""
        on = present[channels]
        self._bias[channels] = np.where(on, self._trained_bias[channels], self._levels[channels])
        if 4 * len(channels) > len(present):
            mask = np.zeros(len(self._lanes) * self._block, bool)
            mask[: len(present)] = present
            kept = mask.reshape(len(self._lanes), 1, self._block)
            # Not a product: infinity times zero is no number.
            np.copyto(self._lanes, np.float32(0))
            np.copyto(self._lanes, self._trained_lanes, where=kept)
            return
        off = channels[~on]
        self._lanes[off // self._block, :, off % self._block] = 0
        back = channels[on]
        rows, lanes = back // self._block, back % self._block
        self._lanes[rows, :, lanes] = self._trained_lanes[rows, :, lanes]


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
