"""A model made ready for coalitions: optimised once, its switches found, its slices at hand.

Everything here is shared by all workers and is read only, but for the store of sessions, which is
kept under a lock.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import numpy_helper

from repairkit.core.filters import FilterMeans, Roster
from repairkit.core.suite import Array
from repairkit.engine.ort import Call, Level, as_value, open_slice, optimise, release_freed
from repairkit.engine.weights.workspace import Workspace, Workspaces
from repairkit.graph.coalitions.cones import Anatomy, Shape, Slice, Switch, extract
from repairkit.graph.coalitions.recast import recast
from repairkit.graph.coalitions.weight_space import find_switches, separate, with_codes
from repairkit.graph.index import attribute
from repairkit.graph.kinds.kind import Survey

_MOST_SESSIONS = 512
_ADDED_SLOT = 3  # of a convolution into which a residual sum was fused


@dataclass(frozen=True)
class Overwrite:
    """How the yield of an absent filter is written into a cached tensor, without its convolution.

    `tensor` holds the yield of the site's filters, as far behind the site as channels stay apart.
    Where nothing was added on the way, `absent` (n_blocks, n_positions, block) is what their lanes
    hold. Else these hold the level plus the lanes of `added`, cut off below zero where `relu`.
    """

    tensor: str
    block: int
    absent: Array | None
    added: str = ""
    relu: bool = False


class Compiled:
    """An optimised model of a game.

    Args:
        found: the survey of the working model.
        roster: the game's filters.
        means: the levels of absent filters.
        image: the name of the image input.
        output: the output that is judged.
        sample: an image, shape (1, *input).
        level: how far the graph is optimised.
        weight_space: turn filters off in the weights where a site allows it; else by masks.
        half: compute in half precision; not in weight space.

    Raises:
        ModelError: the optimised graph is not understood.
    """

    def __init__(
        self,
        found: Survey,
        roster: Roster,
        means: FilterMeans,
        *,
        image: str,
        output: str,
        sample: Array,
        level: Level = "blocked",
        weight_space: bool = True,
        half: bool = False,
    ) -> None:
        assert not (half and weight_space)
        self.roster, self.means = roster, means
        separated = separate(found, roster.sites, means, output=output, weight_space=weight_space)
        optimised = optimise(with_codes(separated, roster), level)
        # Not before: the runtime would write down the casts that its CPU kernels need.
        optimised = recast(optimised, "float16") if half else optimised
        switched = find_switches(optimised, separated, roster)
        self.switches, trained = switched.switches, switched.trained
        switchable = {name for s in self.switches for name in (s.kernel, s.bias) if name}
        self.anatomy = Anatomy(switched.model, image, output, switchable)
        self.workspaces = Workspaces(roster, self.switches, trained, means)
        self._lock = threading.Lock()
        self._sessions: OrderedDict[Slice, tuple[Any, tuple[str, ...]]] = OrderedDict()
        stored = self.anatomy.index.initializers
        self.constants = {
            name: as_value(np.ascontiguousarray(numpy_helper.to_array(stored[name])))
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
        release_freed()

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
            call = workspace.calls[piece] = Call(session, piece.outputs, fixed)
        return call({name: live[name] for name in self.anatomy.names_of_all(piece.fed)})

    def _session(self, piece: Slice) -> tuple[Any, tuple[str, ...]]:
        with self._lock:
            if piece in self._sessions:
                self._sessions.move_to_end(piece)
                return self._sessions[piece]
        model, fed = extract(self.anatomy, piece, self.shapes)
        opened = open_slice(model), fed
        with self._lock:
            self._sessions[piece] = opened
            while len(self._sessions) > _MOST_SESSIONS:
                self._sessions.popitem(last=False)
        return opened

    def _everything(self, images: Array, *, present: bool) -> dict[str, Array]:
        """Every tensor that depends on the image, with all filters or none."""
        image = self.anatomy.image
        names = tuple(name for name in self.anatomy.names if name != image)
        # No lasting session: its outputs would hold on to every tensor.
        piece = self.anatomy.slice(self.anatomy.set_of([image]), names)
        model, fed = extract(self.anatomy, piece, self.shapes)
        with self.workspaces.lend() as workspace:
            workspace.hold(np.full(len(self.roster), present))
            known = {image: as_value(np.ascontiguousarray(images))}
            values = known | self.constants | workspace.values
            answers = Call(open_slice(model), names, {name: values[name] for name in fed})({})
        return {name: answer.numpy() for name, answer in answers.items() if answer.is_tensor()}

    def _find_overwrites(self, sample: Array) -> tuple[Overwrite | None, ...]:
        """For every site how absent filters are overwritten; None where it must be computed."""
        tensors = self._everything(np.concatenate([sample, sample[:, ::-1] * 0]), present=False)
        found = []
        for switch in self.switches:
            node = self.anatomy.nodes[self.anatomy.index.producers[switch.tensor]]
            if switch.kernel and len(node.input) > _ADDED_SLOT and node.input[_ADDED_SLOT]:
                activation = attribute(node, "activation")
                kind = "" if activation is None else activation.s.decode()
                added = node.input[_ADDED_SLOT]
                fine = kind in ("", "Relu") and added in self.anatomy.number
                new = Overwrite(switch.tensor, switch.block, None, added, kind == "Relu")
                found.append(new if fine else None)
                continue
            if switch.mask and switch.mask[1] != math.prod(switch.mask):
                found.append(None)  # the channels are not on the second axis
                continue
            tensor, block = self.anatomy.behind(switch.tensor, switch.block)
            found.append(_constant_lanes(tensor, block, tensors[tensor]))
        return tuple(found)


def _constant_lanes(tensor: str, block: int, absent: Array) -> Overwrite | None:
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
