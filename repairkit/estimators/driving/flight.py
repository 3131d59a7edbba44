"""Rounds under way at once, where the game can have several and the run knows what it will ask.

A run may have a method `ask_ahead(pending)`: what it will ask once the rounds of `pending`, asked
and not yet told, are told, whatever their outcomes; None where that hangs on the outcomes. So it
never matters to a result how many rounds are under way. A game that can have several says so by
`begin(round)`, `finish(ticket)` and `hungry` (see `engine.dispatch.DispatchedGame`).
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from repairkit.core.game import Game, Outcomes, Round
from repairkit.core.scores import Run
from repairkit.estimators.driving.whole import as_played, as_told


class Flight:
    """Rounds that were begun and not yet told, in the order in which they are told.

    Args:
        game: what is played.
        run: who asks.
        known: a round on all images that was played already, and its outcomes.
    """

    def __init__(self, game: Game, run: Run, known: tuple[Round, Outcomes] | None = None) -> None:
        self.game: Any = game
        self.run: Any = run
        self.known = known
        self.overlaps = hasattr(game, "begin")
        self._sees_ahead = hasattr(run, "ask_ahead")
        self._pending: deque[tuple[Round, Any]] = deque()

    def ask(self) -> Round:
        """The round that is to be told next."""
        round: Round = self._pending[0][0] if self._pending else self.run.ask()
        return round

    def play(self, round: Round, *, rows_left: int | None) -> Outcomes:
        """Play the round of `ask`, with later ones under way meanwhile.

        Args:
            round: of `ask`.
            rows_left: evaluations that the budget still allows, those of `round` included.
        """
        facts = self.game.facts
        if self.known is not None and self.knows(round):
            return as_told(self.known[1], round, facts)
        if not self.overlaps:
            return as_told(self.game.play(as_played(round, facts)), round, facts)
        if not self._pending:
            self._begin(round)
        self._look_ahead(rows_left)
        outcomes = self.game.finish(self._pending[0][1])
        self._pending.popleft()
        return as_told(outcomes, round, facts)

    def knows(self, round: Round) -> bool:
        """Whether the round was played before."""
        if self.known is None or self._pending or round.images is not None:
            return False
        return np.array_equal(round.coalitions, self.known[0].coalitions)

    def _begin(self, round: Round) -> None:
        played = as_played(round, self.game.facts)
        self._pending.append((round, self.game.begin(played)))

    def _look_ahead(self, rows_left: int | None) -> None:
        while self._sees_ahead and self.game.hungry:
            pending = [round for round, _ in self._pending]
            following = self.run.ask_ahead(pending)
            if following is None or not len(following):
                return
            under_way = sum(each.evaluations for each in pending)
            if rows_left is not None and under_way + following.evaluations > rows_left:
                return
            self._begin(following)
