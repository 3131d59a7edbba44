"""States: the tensors of one coalition on some images, kept from round to round in a budget.

A state belongs to one worker while it is in use, and may be changed by it. What is put back stays
until newer states need the room; a state that is gone is computed anew, with the same result.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.suite import Array
from repairkit.engine.weights.routes import Row
from repairkit.graph.coalitions.cones import Tensors

_MOST_ROWS = 4096


@dataclass
class State:
    """`live` are runtime values by tensor name, `cached` the set of them.

    They, and the model's `outputs`, are those under `coalition`.
    """

    coalition: Row
    live: dict[str, Any] = field(default_factory=dict)
    cached: Tensors = 0
    outputs: Array | None = None
    n_bytes: int = 0


class States:
    """States by the images that they are about; the least recently used go first.

    `n_bytes` are held, `budget_bytes` may be.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._held: OrderedDict[bytes, list[State]] = OrderedDict()
        self.n_bytes = 0
        self._rows: OrderedDict[bytes, NDArray[np.uint8]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: bytes) -> State | None:
        """A state, which is then the caller's."""
        with self._lock:
            states = self._held.get(key)
            if not states:
                return None
            state = states.pop()
            if not states:
                del self._held[key]
            self.n_bytes -= state.n_bytes
            return state

    def put(self, key: bytes, state: State) -> None:
        """Hand a state back."""
        with self._lock:
            self._held.setdefault(key, []).append(state)
            self._held.move_to_end(key)
            self.n_bytes += state.n_bytes
            while self.n_bytes > self.budget_bytes:
                oldest = next(iter(self._held))
                gone = self._held[oldest].pop(0)
                self.n_bytes -= gone.n_bytes
                if not self._held[oldest]:
                    del self._held[oldest]

    def last_row(self, key: bytes, row: Row) -> Row | None:
        """The row that was last answered on these images, if not long ago; from now on `row`."""
        with self._lock:
            last = self._rows.pop(key, None)
            self._rows[key] = np.packbits(row)
            if len(self._rows) > _MOST_ROWS:
                self._rows.popitem(last=False)
        return None if last is None else np.unpackbits(last, count=len(row)).astype(bool)
