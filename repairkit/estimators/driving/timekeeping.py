"""The time within a round: a long one is cut into parts, so that the clock is looked at between.

Nothing is cut where there is no time limit. A part is as long as takes a small share of what is
left, by what rows took so far. An answer depends on its row alone, so that the cut changes nothing
but where a run ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from repairkit.core.game import GameFacts, Outcomes, Round
from repairkit.estimators.driving.whole import as_played

_SHARE = 0.05
_LEAST_SECONDS = 2.0
_FIRST_PASSES = 32
_GROWTH = 4
_AFTER = 2.0


class Timekeeper:
    """Plays rounds until `end`, a moment of `clock`; None is no limit.

    What the run takes to think is kept back: it will think once more when it is read.
    """

    def __init__(self, clock: Callable[[], float], end: float | None, facts: GameFacts) -> None:
        self.clock, self.end, self.facts = clock, end, facts
        self._per_pass: dict[bool, float] = {}
        self._thought = 0.0

    @property
    def left(self) -> float:
        """Seconds for further rounds."""
        if self.end is None:
            return np.inf
        return self.end - self.clock() - _AFTER * self._thought

    @property
    def over(self) -> bool:
        return self.left <= 0

    @contextmanager
    def thinking(self) -> Iterator[None]:
        """Within, the run learns."""
        began = self.clock()
        yield
        self._thought = max(self._thought, self.clock() - began)

    def play(self, round: Round, play: Callable[[Round], Outcomes], *, divisible: bool) -> Outcomes:
        """The outcomes of a round; of its first rows alone where the time is over.

        Args:
            round: to be played.
            play: plays any rows.
            divisible: whether rounds can be cut.
        """
        if self.end is None or not divisible:
            return play(round)
        played = as_played(round, self.facts)
        whole = played.images is None
        n_images = len(self.facts.pool) if played.images is None else played.images.shape[1]
        parts: list[Outcomes] = []
        done = 0
        while done < len(round) and not (done and self.over):
            size = self._rows(whole, n_images, len(round) - done, done)
            images = None if round.images is None else round.images[done : done + size]
            began = self.clock()
            parts.append(play(Round(round.coalitions[done : done + size], images)))
            self._per_pass[whole] = (self.clock() - began) / (size * n_images)
            done += size
        if len(parts) == 1 and done == len(round):
            return parts[0]
        images = None if round.images is None else round.images[:done]
        scores = np.concatenate([part.scores for part in parts])
        return Outcomes(scores, Round(round.coalitions[:done], images))

    def _rows(self, whole: bool, n_images: int, most: int, done: int) -> int:
        """How many rows to play next."""
        known = self._per_pass.get(whole)
        if known is None:
            return min(max(1, _FIRST_PASSES // n_images), most)
        seconds = max(_SHARE * self.left, _LEAST_SECONDS)
        wanted = int(seconds / max(known * n_images, 1e-9))
        if done:
            wanted = min(wanted, _GROWTH * done)
        # A last crumb would cost more than it holds.
        return most if 2 * wanted >= most > wanted or wanted >= most else max(1, wanted)
