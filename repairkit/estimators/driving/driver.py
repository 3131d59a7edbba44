"""Plays the rounds that a run asks for, within a budget. Nothing else spends evaluations.

An estimator is the settings of an algorithm, and a run is one estimation in progress. It asks for a
round of coalitions (`ask`), takes the outcomes (`tell`), and can be read at any time (`read`).
Budgets, checkpoints and interruptions are handled here once, for every estimator. A run is saved
between `tell` and `ask` or while a round is played. `ask` must change nothing: called twice, it
returns the same round. So a lost round is asked for again, and a resumed run ends exactly as a run
that was never killed, bit for bit.

A run may have more than `core.scores.Run` demands, as attributes or properties:

- `least_evaluations` (int): fewer evaluations give no score at all;
- `enough_evaluations` (int): from so many on there always is a score;
- `endless` (bool): the run only ends by its budget;
- `conclusion` (str): the answer, once the run has nothing more to ask;
- `statistics` (dict of floats by name): figures that belong beside the scores;
- `details` (dict of what JSON can hold): output on request, such as how far two halves of the
  samples agree;
- `n_undecided` (int, or None where unknown): for how many players the question is open. It is quick
  at any time, while reading a run or its details may take long;
- `ask_ahead(pending)`: the next round, where it does not depend on the outcomes of rounds that are
  still being played (see `driving/playing.py`);
- `can_be_told(n_rows)`: whether the run can take the outcomes of only the first `n_rows` rows of a
  round. If the time limit ends a round early, the rows played so far then count;
- `on_images(some)`: the run as it would be if the game had held only the images of `some`; None
  where that is unknown. Rows of a regression carry their image, and leave-one-out knows the loss of
  each image. Estimators that get means over batches of several images (permutations, marginals) or
  over all images (enumeration) return None.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, Unpack

import numpy as np

from repairkit.core.errors import BudgetError, SettingsError
from repairkit.core.game import Game, GameFacts, Outcomes, Round, SomeImages
from repairkit.core.scores import Budget, Estimator, Run, Scores, Spent
from repairkit.estimators.driving import checkpoint
from repairkit.estimators.driving.playing import Flight, Timekeeper, as_played, seen_by_run

_SAVING_SHARE = 0.05
_KEYS = (checkpoint.settings_key, checkpoint.earlier_settings_key)


@dataclass(frozen=True, kw_only=True)
class Estimation:
    """Scores, their cost, whether the run reached its own end, and the reason for its end.

    `statistics` are the run's figures about itself, finite numbers by name. `details` are further
    ones, empty unless requested. `run` is the run as it ended, in the game of `facts`.
    """

    scores: Scores
    spent: Spent
    finished: bool
    reason: str
    statistics: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    run: Run | None = field(default=None, repr=False, compare=False)
    facts: GameFacts | None = field(default=None, repr=False, compare=False)


class Options(TypedDict, total=False):
    """Optional arguments of `estimate`, described there."""

    on_round: Callable[[Run, Spent], None] | None
    checkpoint: checkpoint.CheckpointStore | None
    clock: Callable[[], float]
    with_details: bool
    began: float | None
    known: tuple[Round, Outcomes] | None


def estimate(
    game: Game, estimator: Estimator, *, budget: Budget, seed: int, **options: Unpack[Options]
) -> Estimation:
    """Play until the run has nothing more to ask or the budget ends.

    Args:
        estimator: whose run asks.
        game: what is played.
        budget: a round that would exceed its evaluations is not played. Its time is checked
            between rounds, from the second on, and within rounds that take long. Time spent before
            a resumption counts.
        seed: the same seed, settings and game give the same scores.
        options: any of these.
            `on_round`: called after every round.
            `checkpoint`: where the run is saved, and resumed from if a checkpoint exists.
            `clock`: seconds since some moment; `time.monotonic` if not given.
            `with_details`: ask the run for its details at the end.
            `began`: the moment of `clock` from which the time counts; now if None.
            `known`: a round on all images and its outcomes, so that it is not played again.

    Raises:
        BudgetError: the budget ends before any score, or is missing for an endless run.
        SettingsError: the estimator's settings do not fit the game.
        RunFolderError: the checkpoint is damaged, another run's, or cannot be written.
        KeyboardInterrupt: after the run was saved.
    """
    run = _start(game.facts, estimator, seed)
    store = options.get("checkpoint")
    keys = [] if store is None else [key(estimator, game.facts, seed) for key in _KEYS]
    job = _Driven(game, run, budget, options, keys)
    job.refuse_hopeless()
    try:
        finished, reason = job.play_all()
    except KeyboardInterrupt:
        if job.consistent:
            job.save()
        raise
    job.save()
    return job.conclude(finished=finished, reason=reason)


def undecided(run: Run) -> int | None:
    """For how many players a run's question is open; None where unknown.

    For progress lines: it takes no time, while `Run.read` may take minutes.
    """
    if hasattr(run, "n_undecided"):
        count: int | None = run.n_undecided
        return count
    return int((~run.read().decided).sum())


def run_on(run: Run, some: SomeImages) -> Run | None:
    """A run as if the game had held only these images; None where that is unknown."""
    of_images: Callable[[SomeImages], Run | None] | None = getattr(run, "on_images", None)
    return None if of_images is None else of_images(some)


def scores_on(run: Run, some: SomeImages) -> Scores | None:
    """A run's scores if the game had held only these images; None where they are unknown."""
    part = run_on(run, some)
    return None if part is None else part.read()


def _start(facts: GameFacts, estimator: Estimator, seed: int) -> Run:
    if facts.n_players < 1:
        raise SettingsError("the game has no players; choose sites that hold filters")
    run = estimator.start(seen_by_run(facts), np.random.default_rng(seed))
    lacking = [name for name in ("ask", "tell", "read") if not callable(getattr(run, name, None))]
    if lacking:
        raise SettingsError(
            f"`start` of {type(estimator).__name__} gave a {type(run).__name__} without "
            f"{', '.join(lacking)}; return a run that has ask, tell and read"
        )
    return run


class _Driven:
    """A run and the budget that it spends.

    `keys` are those under which it may have been saved, the one to save it under first.
    `consistent` is false while the run takes in outcomes. A run that is stopped then cannot be
    saved.
    """

    def __init__(
        self, game: Game, run: Run, budget: Budget, options: Options, keys: Sequence[str]
    ) -> None:
        self.game, self.facts, self.run = game, game.facts, run
        self.budget, self.options, self.keys = budget, options, keys
        self.store = store = options.get("checkpoint")
        self.clock = clock = options.get("clock", time.monotonic)
        before = None if store is None else store.load(run, *keys)
        self.spent = before or Spent()
        self.consistent = True
        self._epoch = clock() - self.spent.seconds
        began = options.get("began")
        elapsed = 0.0 if began is None else clock() - began
        seconds = budget.time_limit_seconds
        end = None if seconds is None else self._epoch + seconds - elapsed
        self.timekeeper = Timekeeper(clock, end, self.facts)
        self._save_at = clock() + (0.0 if store is None else store.every_seconds)

    def refuse_hopeless(self) -> None:
        """Raise BudgetError where the budget cannot give any score."""
        if self.budget == Budget() and getattr(self.run, "endless", False):
            raise BudgetError(
                "this estimator never ends by itself and the budget has no limit; set "
                "max_evaluations or time_limit_seconds"
            )
        self._refuse_below("the first score", getattr(self.run, "least_evaluations", 0))

    def play_all(self) -> tuple[bool, str]:
        """Play round after round; whether the run reached its own end, and why it ended."""
        flight = Flight(self.game, self.run, self.options.get("known"))
        on_round = self.options.get("on_round")
        while True:
            round = flight.ask()
            ending = self._ending(round)
            if ending is not None:
                return ending
            outcomes = self.timekeeper.play(
                round,
                lambda part: flight.play(part, rows_left=self._rows_left()),
                divisible=not flight.overlaps and not flight.knows(round),
            )
            n_rows = len(outcomes.scores)
            if n_rows < len(round) and not self._can_be_told(n_rows):
                self._charge(round, n_rows)
                return False, self._out_of_time()
            self._tell(outcomes, round)
            if on_round is not None:
                on_round(self.run, self.spent)
            if self.store is not None and self.clock() >= self._save_at:
                self.save()

    def _tell(self, outcomes: Outcomes, round: Round) -> None:
        n_rows = len(outcomes.scores)
        _check_outcomes(outcomes, n_rows, self.facts)
        self.consistent = False
        with self.timekeeper.thinking():
            self.run.tell(outcomes)
        self._charge(round, n_rows)
        self.consistent = True

    def _can_be_told(self, n_rows: int) -> bool:
        can_be_told: Callable[[int], bool] | None = getattr(self.run, "can_be_told", None)
        return n_rows > 0 and can_be_told is not None and can_be_told(n_rows)

    def conclude(self, *, finished: bool, reason: str) -> Estimation:
        """Read the run; BudgetError if it was stopped before it has any score."""
        scores = self.run.read()
        if self.spent.evaluations and not finished and not scores.samples.any():
            raise BudgetError(f"{reason}, and that is too early for any score; {self._remedy()}")
        statistics: Mapping[str, float] = getattr(self.run, "statistics", {})
        wanted = self.options.get("with_details", False)
        details: Mapping[str, Any] = getattr(self.run, "details", {}) if wanted else {}
        return Estimation(
            scores=scores,
            spent=self.spent,
            finished=finished,
            reason=reason,
            statistics={name: float(x) for name, x in statistics.items() if np.isfinite(x)},
            details=details,
            run=self.run,
            facts=self.facts,
        )

    def save(self) -> None:
        """Save the run if there is a store; the pauses limit saving to a twentieth of the time."""
        if self.store is None:
            return
        began = self.clock()
        self.store.save(self.run, self.spent, self.keys[0])
        ended = self.clock()
        self._save_at = ended + max(self.store.every_seconds, (ended - began) / _SAVING_SHARE)

    def _ending(self, round: Round) -> tuple[bool, str] | None:
        if not len(round):
            conclusion = getattr(self.run, "conclusion", "there is nothing more to learn")
            return True, conclusion
        allowed, seconds = self.budget.max_evaluations, self.budget.time_limit_seconds
        if allowed is not None and self.spent.evaluations + round.evaluations > allowed:
            if not self.spent.rounds:
                self._refuse_below("one round", round.evaluations)
            return False, f"the budget of {allowed:,} evaluations is spent"
        if seconds is not None and self.spent.rounds and self.timekeeper.over:
            return False, self._out_of_time()
        return None

    def _out_of_time(self) -> str:
        return f"the time limit of {self.budget.time_limit_seconds:g} s was reached"

    def _remedy(self) -> str:
        """The advice on the limit that ended the run, with an estimate for a time limit."""
        seconds, needed = self.budget.time_limit_seconds, getattr(self.run, "least_evaluations", 0)
        missing = needed - self.spent.evaluations
        if seconds is None or not self.timekeeper.over or missing <= 0:
            enough = getattr(self.run, "enough_evaluations", None)
            return "raise it" if enough is None else f"raise it to {enough}, which always do"
        per_row = (self.clock() - self._epoch) / max(self.spent.evaluations, 1)
        return f"raise it to about {math.ceil(seconds + 1.2 * missing * per_row):,} s"

    def _rows_left(self) -> int | None:
        allowed = self.budget.max_evaluations
        return None if allowed is None else allowed - self.spent.evaluations

    def _refuse_below(self, what: str, needed: int) -> None:
        allowed = self.budget.max_evaluations
        if allowed is not None and allowed < needed:
            raise BudgetError(
                f"{what} needs {needed} evaluations and the budget allows {allowed}; raise it to "
                f"at least {needed}"
            )

    def _charge(self, round: Round, n_rows: int) -> None:
        images = as_played(round, self.facts).images
        per_row = len(self.facts.pool) if images is None else images.shape[1]
        self.spent = Spent(
            self.spent.rounds + 1,
            self.spent.evaluations + n_rows * round.charged,
            self.spent.image_passes + n_rows * per_row,
            self.clock() - self._epoch,
        )


def _check_outcomes(outcomes: Outcomes, n_rows: int, facts: GameFacts) -> None:
    """Raise SettingsError unless all values are finite: others would spoil every sum."""
    assert outcomes.values.shape == (n_rows, facts.n_metrics)
    bad = ~np.isfinite(outcomes.values).all(axis=0)
    if bad.any():
        raise SettingsError(
            f"{facts.metrics[int(np.flatnonzero(bad)[0])]} is not finite for a coalition; use a "
            "metric that is bounded"
        )
