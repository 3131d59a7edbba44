"""How the rounds that a run asks for are played.

Three steps come between a run and its game. None of them changes a result.

Metrics of sets. The accuracy of the worst group, for example, is not a mean over images: one image
has no worst group, and a small batch has one by chance. A mean over batches would be too low for a
worst group and too high for a difference between groups, by an amount that differs between
coalitions. So every coalition is evaluated on all images of such a game. The run sees a pool of one
image, which represents all of them: whichever images it draws, it gets V. Its estimates are then
uncertain by the coalitions alone. See `seen_by_run`, `as_played` and `as_told`.

Several rounds at once (`Flight`), where the game can play several and the run knows what it will
ask. A run may have a method `ask_ahead(pending)`: the round that follows those in `pending`,
whatever their outcomes are; None where it depends on them. So a result never depends on the number
of rounds at once. A game that can play several has the methods `begin(round)` and `finish(ticket)`
and the property `hungry` (see `engine.dispatch.DispatchedGame`).

Time within a round (`Timekeeper`). With a time limit a long round is cut into parts, and the clock
is read between them. A part takes a small share of the remaining time, by the time per row so
far. The outcome of a row depends on that row alone, so the cut changes only where a run ends.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol, TypeAlias, cast

import numpy as np

from repairkit.core.game import Game, GameFacts, ImagePool, Outcomes, Round
from repairkit.core.scores import Run

AskAhead: TypeAlias = Callable[[Sequence[Round]], Round | None]
"""From rounds whose outcomes a run does not have yet to its next round; see above."""

_SHARE = 0.05
_LEAST_SECONDS = 2.0
_FIRST_PASSES = 32
_GROWTH = 4
_AFTER = 2.0


# Metrics of sets


def seen_by_run(facts: GameFacts) -> GameFacts:
    """The facts of a game as its run sees them."""
    if not facts.of_sets:
        return facts
    return replace(facts, pool=ImagePool.uniform(1), images_of=())


def as_played(round: Round, facts: GameFacts) -> Round:
    """The round to play where a run asks for `round`; `facts` are those of the real game."""
    return Round(round.coalitions) if facts.of_sets else round


def as_told(outcomes: Outcomes, asked: Round, facts: GameFacts) -> Outcomes:
    """The outcomes for the run: a row that it asked for with its own images has one score, V."""
    if not facts.of_sets or asked.images is None:
        return replace(outcomes, asked=asked)
    values = outcomes.values[:, None, :]
    n_images = asked.images.shape[1]
    return Outcomes(np.broadcast_to(values, (len(values), n_images, values.shape[2])), asked)


# Several rounds under way


class OverlappingGame(Game, Protocol):
    """A game that can play several rounds at once."""

    @property
    def hungry(self) -> bool:
        """Whether it could begin another round now."""
        ...

    def begin(self, round: Round) -> object:
        """Begin a round; the result is the ticket for `finish`."""
        ...

    def finish(self, ticket: object) -> Outcomes:
        """Wait for the outcomes of a round that was begun."""
        ...


class Flight:
    """Rounds that have begun and whose outcomes the run does not have yet, in order.

    Args:
        game: what is played.
        run: what asks.
        known: a round on all images that was played already, and its outcomes.
    """

    def __init__(self, game: Game, run: Run, known: tuple[Round, Outcomes] | None = None) -> None:
        self.game, self.run, self.known = game, run, known
        self.overlaps = hasattr(game, "begin")
        self._ask_ahead: AskAhead | None = getattr(run, "ask_ahead", None)
        self._pending: deque[tuple[Round, object]] = deque()

    def ask(self) -> Round:
        """The round whose outcomes the run is to get next."""
        return self._pending[0][0] if self._pending else self.run.ask()

    def play(self, round: Round, *, rows_left: int | None) -> Outcomes:
        """Play the round of `ask`, while later ones are played too.

        Args:
            round: of `ask`.
            rows_left: evaluations that the budget still allows, those of `round` included.
        """
        facts = self.game.facts
        if self.known is not None and self.knows(round):
            return as_told(self.known[1], round, facts)
        if not self.overlaps:
            return as_told(self.game.play(as_played(round, facts)), round, facts)
        game = cast("OverlappingGame", self.game)
        if not self._pending:
            self._begin(game, round)
        self._look_ahead(game, rows_left)
        outcomes = game.finish(self._pending[0][1])
        self._pending.popleft()
        return as_told(outcomes, round, facts)

    def knows(self, round: Round) -> bool:
        """Whether the round was played before."""
        if self.known is None or self._pending or round.images is not None:
            return False
        return np.array_equal(round.coalitions, self.known[0].coalitions)

    def _begin(self, game: OverlappingGame, round: Round) -> None:
        self._pending.append((round, game.begin(as_played(round, game.facts))))

    def _look_ahead(self, game: OverlappingGame, rows_left: int | None) -> None:
        while self._ask_ahead is not None and game.hungry:
            pending = [round for round, _ in self._pending]
            following = self._ask_ahead(pending)
            if following is None or not len(following):
                return
            under_way = sum(each.evaluations for each in pending)
            if rows_left is not None and under_way + following.evaluations > rows_left:
                return
            self._begin(game, following)


# Time within a round


class Timekeeper:
    """Plays rounds until `end`, a moment of `clock`; None is no limit.

    The time that the run itself takes is kept back, since it computes once more when it is read.
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
        """Around the time in which the run takes in outcomes."""
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
        # A small last part is played with the one before it.
        return most if 2 * wanted >= most > wanted or wanted >= most else max(1, wanted)
