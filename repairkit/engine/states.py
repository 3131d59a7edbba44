"""States: the tensors of one coalition on some images, kept from round to round in a budget.

A state belongs to one worker while it is in use, and may be changed by it. What is put back stays
until newer states need the room; a state that is gone is computed anew, with the same result.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repairkit.engine.routes import Row
from repairkit.graph.cones import Tensors

_MOST_SEEN = 4096


@dataclass
class State:
    """`live` are runtime values by tensor name, `cached` the set of them, `coalition` whose."""

    coalition: Row
    live: dict[str, Any] = field(default_factory=dict)
    cached: Tensors = 0
    n_bytes: int = 0


class States:
    """States by the images that they are about; the least recently used go first."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._held: OrderedDict[bytes, list[State]] = OrderedDict()
        self._n_bytes = 0
        self._seen: deque[bytes] = deque(maxlen=_MOST_SEEN)
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
            self._n_bytes -= state.n_bytes
            return state

    def put(self, key: bytes, state: State) -> None:
        """Hand a state back."""
        with self._lock:
            self._held.setdefault(key, []).append(state)
            self._held.move_to_end(key)
            self._n_bytes += state.n_bytes
            while self._n_bytes > self.budget_bytes:
                oldest = next(iter(self._held))
                gone = self._held[oldest].pop(0)
                self._n_bytes -= gone.n_bytes
                if not self._held[oldest]:
                    del self._held[oldest]

    def met_before(self, key: bytes) -> bool:
        """Whether this was asked for the same key not long ago."""
        with self._lock:
            if key in self._seen:
                return True
            self._seen.append(key)
            return False


def quarter_of_free_memory() -> int:
    """Bytes; 1 GiB where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 2**30
    free = [line.split()[1] for line in lines if line.startswith("MemAvailable")]
    return int(free[0]) * 1024 // 4 if free else 2**30
