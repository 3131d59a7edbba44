"""A model made ready for coalitions: optimised once, its switches found, its slices at hand.

All workers share a `Compiled` model. It is read only except for the store of sessions, which has a
lock. Each worker has a `Workspace`: its own copies of the weights and masks, edited in place to
hold a coalition. Absent filters can also be written into cached tensors, lane by lane, and taken
back (`overwrite`, `put_back`).
"""

from __future__ import annotations

import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from repairkit.core import filters, suite
from repairkit.engine import ort
from repairkit.engine.cones.routes import Overwrite, Routes, Row
from repairkit.graph.coalitions.cones import Anatomy, Shape, Slice, Switch, Switched, extract
from repairkit.graph.protos import attribute

logger = logging.getLogger(__name__)

_MOST_SESSIONS = 512
_ADDED_SLOT = 3  # of a convolution into which a residual sum was fused
Channels = NDArray[np.intp]
Undo = list[tuple[suite.Array, NDArray[np.intp], suite.Array]]
"""Lanes of a tensor, the channels that were written, and what was there."""


class Compiled:
    """An optimised model of a game.

    Args:
        switched: the optimised model, and how its filters are turned off.
        roster: the game's filters.
        levels: of absent filters.
        image: the name of the image input.
        output: the output that is judged.
        sample: an image, shape (1, *input).
    """

    def __init__(
        self,
        switched: Switched,
        roster: filters.Roster,
        levels: filters.FilterMeans,
        *,
        image: str,
        output: str,
        sample: suite.Array,
    ) -> None:
        self.roster, self.means = roster, levels
        self.switches, trained = switched.switches, switched.trained
        switchable = {name for s in self.switches for name in (s.kernel, s.bias) if name}
        self.anatomy = Anatomy(switched.model, image, output, switchable)
        self.workspaces = Workspaces(roster, self.switches, trained, levels)
        self._lock = threading.Lock()
        self._sessions: OrderedDict[Slice, tuple[Any, tuple[str, ...]]] = OrderedDict()
        stored = self.anatomy.index.initializers
        self.constants = {
            name: ort.as_value(np.ascontiguousarray(numpy_helper.to_array(stored[name])))
            for name in sorted(self.anatomy.inputs - switchable)
        }
        self.path = _describe(self.switches)
        self.shapes: dict[str, Shape] = {
            image: Shape(sample.shape, sample.dtype.name),
        }
        self.shapes |= {
            name: Shape(array.shape, array.dtype.name)
            for name, array in self._everything(sample, present=True).items()
        }
        self.costs = self.anatomy.arithmetic(self.shapes)
        self.overwrites = self._find_overwrites(sample)
        ort.release_freed()

    @property
    def product_cost(self) -> float:
        """Multiplications per image of the sites that are matrix products."""
        made_by = self.anatomy.index.producers
        return sum(self.costs[made_by[s.tensor]] for s in self.switches if s.shaped)

    def routes(self, *, overwriting: bool = True) -> Routes:
        """Routes from coalition to coalition; unless `overwriting`, convolutions always run."""
        return Routes(
            self.anatomy,
            self.roster,
            self.switches,
            shapes=self.shapes,
            costs=self.costs,
            overwrites=self.overwrites if overwriting else (None,) * len(self.switches),
        )

    def run(self, piece: Slice, live: Mapping[str, Any], workspace: Workspace) -> dict[str, Any]:
        """The outputs of a slice under the workspace's coalition, as runtime values.

        Args:
            piece: which nodes.
            live: runtime values of the tensors that the slice is fed, by name.
            workspace: lent to this thread.
        """
        call = workspace.calls.get(piece)
        if call is None:
            session, fed = self._session(piece)
            if len(workspace.calls) >= _MOST_SESSIONS:
                workspace.calls.clear()
            fixed = {n: v for n, v in (self.constants | workspace.values).items() if n in fed}
            call = workspace.calls[piece] = ort.Call(session, piece.outputs, fixed)
        return call({name: live[name] for name in self.anatomy.names_of_all(piece.fed)})

    def _session(self, piece: Slice) -> tuple[Any, tuple[str, ...]]:
        with self._lock:
            if piece in self._sessions:
                self._sessions.move_to_end(piece)
                return self._sessions[piece]
        model, fed = extract(self.anatomy, piece, self.shapes)
        opened = ort.open_slice(model), fed
        with self._lock:
            self._sessions[piece] = opened
            while len(self._sessions) > _MOST_SESSIONS:
                self._sessions.popitem(last=False)
        return opened

    def _everything(self, images: suite.Array, *, present: bool) -> dict[str, suite.Array]:
        """Every tensor that depends on the image, with all filters or none."""
        image = self.anatomy.image
        names = tuple(name for name in self.anatomy.names if name != image)
        # No lasting session: its outputs would hold on to every tensor.
        piece = self.anatomy.slice(self.anatomy.set_of([image]), names)
        model, fed = extract(self.anatomy, piece, self.shapes)
        with self.workspaces.lend() as workspace:
            workspace.hold(np.full(len(self.roster), present))
            known = {image: ort.as_value(np.ascontiguousarray(images))}
            values = known | self.constants | workspace.values
            answers = ort.Call(ort.open_slice(model), names, {name: values[name] for name in fed})(
                {}
            )
        return {name: answer.numpy() for name, answer in answers.items() if answer.is_tensor()}

    def _find_overwrites(self, sample: suite.Array) -> tuple[Overwrite | None, ...]:
        """For every site how absent filters are overwritten; None where it must be computed."""
        tensors = self._everything(np.concatenate([sample, sample[:, ::-1] * 0]), present=False)
        overwrites: list[Overwrite | None] = []
        for switch in self.switches:
            node = self.anatomy.nodes[self.anatomy.index.producers[switch.tensor]]
            if switch.kernel and len(node.input) > _ADDED_SLOT and node.input[_ADDED_SLOT]:
                activation = attribute(node, "activation")
                kind = "" if activation is None else activation.s.decode()
                added = node.input[_ADDED_SLOT]
                fine = kind in ("", "Relu") and added in self.anatomy.number
                new = Overwrite(switch.tensor, switch.block, None, added, kind == "Relu")
                overwrites.append(new if fine else None)
                continue
            if switch.mask and switch.mask[1] != math.prod(switch.mask):
                overwrites.append(None)  # the channels are not on the second axis
                continue
            yielded = switch.shaped or switch.tensor
            tensor, block = self.anatomy.behind(yielded, switch.block)
            overwrites.append(_constant_lanes(tensor, block, tensors[tensor]))
        return tuple(overwrites)


def _constant_lanes(tensor: str, block: int, absent: suite.Array) -> Overwrite | None:
    """An overwrite with what a tensor holds where its site has no filter, if images agree on it."""
    first, other = absent[: len(absent) // 2], absent[len(absent) // 2 :]
    if len(first) != 1 or absent.ndim < 2 or not np.array_equal(first, other):
        return None
    lanes = first.reshape(first.shape[1] // block, -1, block)
    return Overwrite(tensor, block, np.ascontiguousarray(lanes))


def _describe(switches: tuple[Switch, ...]) -> str:
    """Which way the filters are turned off, in words."""
    weights = [s for s in switches if s.kernel]
    if not weights:
        return "mask nodes"
    kind = "blocked weights" if any(s.block > 1 for s in weights) else "plain weights"
    rest = len(switches) - len(weights)
    return f"{kind}, {rest} of {len(switches)} sites by mask nodes" if rest else kind


class Workspace:
    """Weights of all sites in memory that the runtime reads; not for two threads at once.

    `values` are the runtime inputs by name, `calls` the slices that were bound to them. `present`
    (n_players,) is the coalition they hold.
    """

    def __init__(
        self,
        roster: filters.Roster,
        switches: tuple[Switch, ...],
        trained: Mapping[str, NDArray[np.float32]],
        means: filters.FilterMeans,
    ) -> None:
        self.present = np.ones(len(roster), bool)
        self.values: dict[str, Any] = {}
        self.calls: dict[Slice, ort.Call] = {}
        self._sites = []
        starts = [roster.slices[s.site].start for s in switches]
        self._starts = np.array([*starts, len(roster)])
        for switch in switches:
            site = _Weights(switch, trained, means[switch.site]) if switch.kernel else _Mask(switch)
            self._sites.append(site)
            self.values.update({name: ort.as_value(a) for name, a in site.arrays.items()})

    def hold(self, coalition: NDArray[np.bool_]) -> None:
        """Make the weights those of a coalition."""
        changed = np.flatnonzero(self.present != coalition)
        if not len(changed):
            return
        ends = np.searchsorted(changed, self._starts)
        for site in np.flatnonzero(np.diff(ends)).tolist():
            channels = changed[ends[site] : ends[site + 1]]
            players = slice(self._starts[site], self._starts[site + 1])
            self._sites[site].turn(channels - players.start, coalition[players])
        self.present[:] = coalition


class _Weights:
    """The kernel and bias of a site in weight space."""

    def __init__(
        self, switch: Switch, trained: Mapping[str, NDArray[np.float32]], levels: suite.Array
    ) -> None:
        kernel, bias = trained[switch.kernel], trained[switch.bias]
        self.arrays = {switch.kernel: kernel.copy(), switch.bias: bias.copy()}
        # Lanes are turned off as bits, many positions at a time; infinity times zero is no number.
        n_channels = len(kernel) // switch.rows
        repeats, n_rows = _divisor(kernel.size // n_channels), n_channels // switch.block
        shape = (n_rows, -1, repeats * switch.block)
        self._bits = np.zeros(n_channels, np.int32)
        self._mask = np.zeros((n_rows, repeats, switch.block), np.int32)
        self._mask_rows = self._mask.reshape(n_rows, 1, -1)
        self._lanes = self.arrays[switch.kernel].view(np.int32).reshape(shape)
        self._trained = kernel.view(np.int32).reshape(shape)
        self._trained_bias = bias.reshape(-1, switch.rows)
        self._bias = self.arrays[switch.bias].reshape(-1, switch.rows)
        self._levels, self._block = levels.reshape(-1, 1), switch.block

    def turn(self, channels: Channels, present: NDArray[np.bool_]) -> None:
        """Turn `channels` on or off, as `present` (n_channels,) says."""
        on = present[channels, None]
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
        roster: filters.Roster,
        switches: tuple[Switch, ...],
        trained: Mapping[str, NDArray[np.float32]],
        means: filters.FilterMeans,
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
        rule, site = compiled.overwrites[k], compiled.roster.sites[k]
        assert rule is not None
        players = compiled.roster.slices[site.name]
        channels = np.flatnonzero(held[players] & ~wanted[players])
        lanes = _lanes(ort.memory_of(live[rule.tensor]), rule.block)
        before = _read(lanes, channels)
        undo.append((lanes, channels, before))
        absent = _absent(rule, channels, live, compiled.means[site.name])
        _write(lanes, channels, absent)
        differs = differs or not _same_bits(before, absent)
    return undo, differs


def put_back(undo: Undo) -> None:
    """Restore what was overwritten."""
    for lanes, channels, saved in undo:
        _write(lanes, channels, saved)


def _absent(
    rule: Overwrite, channels: NDArray[np.intp], live: Mapping[str, Any], levels: suite.Array
) -> suite.Array:
    """What lanes hold without their filters: (n_channels, 1 or n_images, n_positions)."""
    if rule.absent is not None:
        rows, lanes = channels // rule.block, channels % rule.block
        constant: suite.Array = rule.absent[rows, :, lanes][:, None]
        return constant
    added = _read(_lanes(live[rule.added].numpy(), rule.block), channels)
    added += levels[channels][:, None, None]
    return np.maximum(added, 0, out=added) if rule.relu else added


def _same_bits(some: suite.Array, others: suite.Array) -> bool:
    kind = f"u{some.itemsize}"  # so that zero is told from minus zero
    return bool((some.view(kind) == others.view(kind)).all())


def _lanes(tensor: suite.Array, block: int) -> suite.Array:
    """A view of shape (n_images, n_blocks, n_positions, block)."""
    view = tensor.reshape(tensor.shape[0], tensor.shape[1] // block, -1, block)
    assert np.shares_memory(view, tensor)
    return view


def _read(lanes: suite.Array, channels: NDArray[np.intp]) -> suite.Array:
    """A copy, (n_channels, n_images, n_positions)."""
    block = lanes.shape[3]
    if len(channels) == 1:
        c = int(channels[0])
        return lanes[None, :, c // block, :, c % block].copy()
    many: suite.Array = lanes[:, channels // block, :, channels % block]
    return many


def _write(lanes: suite.Array, channels: NDArray[np.intp], values: suite.Array) -> None:
    block = lanes.shape[3]
    if len(channels) == 1:
        c = int(channels[0])
        lanes[:, c // block, :, c % block] = values[0]
    else:
        lanes[:, channels // block, :, channels % block] = values
