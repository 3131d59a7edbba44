"""What the model answers with sets of filters frozen, for all selection images: asked once each.

Searches on different images look at the same sets, so they share the answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from repairkit.core.arrays import Array
from repairkit.engine.evaluator import Evaluator, keep_all
from repairkit.repairs import Frozen

_ROWS_AT_ONCE = 32
_MOST_BYTES = 2**29


class Looks:
    """Outputs by the set that is frozen; the oldest are dropped where they take much memory.

    Attributes:
        n_images: in the outputs.
        n_asked: sets for which the model was run, repetitions included.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        *,
        n_players: int,
        n_images: int,
        rows_at_once: int | None = None,
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        self._evaluator, self._n_players = evaluator, n_players
        self.n_images = n_images
        self._rows, self._most_bytes = rows_at_once or _ROWS_AT_ONCE, most_bytes
        self._known: dict[frozenset[int], Array] = {}
        self._bytes = 0
        self.n_asked = 0

    def __call__(self, sets: Sequence[Frozen]) -> Iterator[Array]:
        """The outputs for all images with each set frozen, in order."""
        for start in range(0, len(sets), self._rows):
            chunk = [frozenset(frozen) for frozen in sets[start : start + self._rows]]
            fresh = [key for key in dict.fromkeys(chunk) if key not in self._known]
            found = {key: self._known[key] for key in chunk if key in self._known}
            found |= self._ask(fresh)
            yield from (found[key] for key in chunk)

    def of(self, frozen: Frozen) -> Array:
        """The outputs for all images with one set frozen."""
        return next(self([frozen]))

    def _ask(self, keys: list[frozenset[int]]) -> dict[frozenset[int], Array]:
        if not keys:
            return {}
        coalitions = np.ones((len(keys), self._n_players), bool)
        for row, key in enumerate(keys):
            coalitions[row, list(key)] = False
        answers = self._evaluator.answer(coalitions, None, keep_all)
        self.n_asked += len(keys)
        found = {key: np.array(answer) for key, answer in zip(keys, answers, strict=True)}
        for key, outputs in found.items():
            self._known[key] = outputs
            self._bytes += outputs.nbytes
        while self._bytes > self._most_bytes and len(self._known) > 1:
            oldest = next(iter(self._known))
            self._bytes -= self._known.pop(oldest).nbytes
        return found
