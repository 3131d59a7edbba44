"""A state that goes from coalition to coalition on some images."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from repairkit.core.suite import Array, Indices, Suite
from repairkit.engine.ort import as_value
from repairkit.engine.weights.overwriting import overwrite, put_back
from repairkit.engine.weights.planner import Move
from repairkit.engine.weights.routes import Routes
from repairkit.engine.weights.states import State
from repairkit.engine.weights.workspace import Workspace


class Walk:
    """Takes moves one after another, in one thread.

    Args:
        routes: of the model.
        workspace: lent to this thread.
        suite: the images.
        positions: those of the walk.
        state: to start from, if there is one; changed by moves that are followed.
    """

    def __init__(
        self,
        routes: Routes,
        workspace: Workspace,
        suite: Suite,
        positions: Indices,
        state: State | None,
    ) -> None:
        self.routes, self.workspace, self.state = routes, workspace, state
        self._suite, self._positions = suite, positions

    def step(self, move: Move) -> Array:
        """The model's outputs under the move's row."""
        held = State(move.row) if self.state is None else self.state
        route = move.route
        undo, differs = overwrite(
            self.routes.compiled, route.overwritten, held.live, held.coalition, move.row
        )
        # Filters that yield on these images what they yield when absent change nothing.
        if held.outputs is not None and route.by_overwriting and not differs:
            if move.follow:
                held.coalition = move.row
            return held.outputs
        values = self._run(move, held)
        outputs: Array = values[self.routes.anatomy.output].numpy()
        if move.follow:
            self._follow(move, held, values, outputs)
        else:
            put_back(undo)
        return outputs

    def _run(self, move: Move, held: State) -> dict[str, Any]:
        route, anatomy = move.route, self.routes.anatomy
        if route.reads_switches:
            self.workspace.hold(move.row)
        live = held.live
        if anatomy.number[anatomy.image] in route.piece.fed:
            live = live | {anatomy.image: self._image}
        return self.routes.compiled.run(route.piece, live, self.workspace)

    @cached_property
    def _image(self) -> Any:
        return as_value(np.ascontiguousarray(self._suite.batch(self._positions)))

    def _follow(self, move: Move, held: State, values: dict[str, Any], outputs: Array) -> None:
        anatomy, route = self.routes.anatomy, move.route
        for name in anatomy.names_of(route.lost):
            del held.live[name]
        held.live.update({name: values[name] for name in anatomy.names_of(route.renewed)})
        held.cached = held.cached & ~route.lost | route.renewed
        held.coalition, held.outputs = move.row, outputs
        self.state = held
