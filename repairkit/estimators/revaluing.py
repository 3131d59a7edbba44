"""Another question to a run that is over: its rows stay, and their outcomes are judged anew.

A regression's rows do not depend on the metric, and X'X not either: only X'y does. So the rows that
a run was told tell of any metric of the same outputs. What the run had decided on the way stays as
it was: how many removals V survives, how many images its table has, and which players its stars are
about. The values are those of a run that drew these very rows for the other metric.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from repairkit.core.errors import RunFolderError, SettingsError
from repairkit.core.game import GameFacts, Outcomes, Round, SomeImages
from repairkit.core.scores import Run
from repairkit.estimators import samples
from repairkit.estimators.auto import AutoRun, star_sizes
from repairkit.estimators.driving.driver import run_on
from repairkit.estimators.linear import control
from repairkit.estimators.linear.regression import RegressionRun, widen_errors
from repairkit.estimators.linear.repair_values import RepairRun, entries_of
from repairkit.estimators.linear.rows import OutcomeTable, RegressionRows
from repairkit.estimators.walking import marginals

FEW_ROWS = 8
"""Rows to a player, below which they are few."""


@dataclass(frozen=True, eq=False)
class KeptOutcomes:
    """What a run was told, judged by other metrics.

    Attributes:
        ends: outcomes of all players and of none, on all images.
        rounds: the rounds that followed, and their outcomes; each is computed when it is reached.
    """

    ends: Outcomes
    rounds: Iterable[tuple[Round, Outcomes]]


def revalued(run: Run, facts: GameFacts, kept: KeptOutcomes, *, same: bool) -> Run:
    """The run as it would be, had its rows been judged by the metrics of `facts`.

    Args:
        run: that is over.
        facts: of the game as the run sees it, whose first metric is the question.
        kept: outcomes of the run's own rounds.
        same: whether the first metric is the run's own, so that what it decided counts.

    Raises:
        SettingsError: a run of this kind has no rows.
        RunFolderError: the rows are not those of the run.
    """
    for kind, revalue in _WAYS.items():
        if isinstance(run, kind):
            part: Run = revalue(run, facts, kept, same)
            return part
    raise _without_rows(run)


def rows_of(run: Run) -> RegressionRows:
    """The rows of a run's regression.

    Raises:
        SettingsError: a run of this kind has no rows.
    """
    return _regression_of(run).rows


def _regression_of(run: Run) -> RegressionRun:
    inner = run if isinstance(run, RegressionRun) else getattr(run, "regression", None)
    if not isinstance(inner, RegressionRun):
        raise _without_rows(run)
    return inner


def cut(run: Run, some: SomeImages) -> Run | None:
    """The run as if the game had held only these images; None where rows share images.

    Where it has few rows of them, intervals are widened so that they hold.
    """
    part = run_on(run, some) or run_on(_regression_of(run), some)
    if part is not None:
        regression = _regression_of(part)
        if len(regression.rows) < FEW_ROWS * regression.facts.n_players:
            widen_errors(regression)
    return part


def _without_rows(run: Run) -> SettingsError:
    return SettingsError(f"a {type(run).__name__} has no rows; score with the method regression")


class _Rows:
    """Outcomes of a regression's rows, told in its own order, and what is left to tell.

    `part` is the run under way: a copy with no outcomes but the same rows.
    """

    def __init__(self, run: RegressionRun, facts: GameFacts, ends: Outcomes) -> None:
        self.run, self.n_told = run, 0
        part = copy.copy(run)
        part.facts, part.fit, part.n_fitted = facts, None, 0
        part.outcomes, part.predicted = (OutcomeTable(facts.n_metrics) for _ in range(2))
        if len(run.ends):
            empty = np.zeros((0, facts.n_metrics))
            part.ends, part.baseline, part.empty = empty, empty, empty
            part.tell(ends)
            part.n_told = run.n_told
        self.part = part

    @property
    def has_pilot(self) -> bool:
        return not self.run.plan.most and self.run.facts.n_players > 1

    def are_next(self, asked: Round) -> bool:
        """Whether a round holds the rows that follow those told."""
        if self.n_told >= len(self.run.rows.bits):
            return False
        bits = self.run.rows.bits[self.n_told]
        return len(bits) == len(asked) and np.array_equal(
            bits, np.packbits(~asked.coalitions, axis=1)
        )

    def tell(self, asked: Round, outcomes: Outcomes) -> None:
        if not self.are_next(asked):
            raise foreign_rows()
        self.part.outcomes.add(outcomes.values)
        if self.part.table is not None:
            self.part.predicted.add(self.part.table.predict(asked, len(self.part.pool)))
        self.n_told += 1

    def done(self) -> RegressionRun:
        if self.n_told != len(self.run.rows.bits):
            raise foreign_rows()
        return self.part


def foreign_rows() -> RunFolderError:
    """What is said where rows and checkpoint are of different runs."""
    return RunFolderError(
        "the kept rows are not those of the run's checkpoint; score the model again with "
        "--keep-rows"
    )


def _regression(run: RegressionRun, facts: GameFacts, kept: KeptOutcomes, same: bool) -> Run:  # noqa: ARG001
    rows = _Rows(run, facts, kept.ends)
    for asked, outcomes in _behind_pilot(rows, kept.rounds):
        rows.tell(asked, outcomes)
    return rows.done()


def _behind_pilot(
    rows: _Rows, rounds: Iterable[tuple[Round, Outcomes]]
) -> Iterator[tuple[Round, Outcomes]]:
    """The rounds without the pilot: how many removals V survives stays as it was found."""
    for number, (asked, outcomes) in enumerate(rounds):
        if number or not rows.has_pilot:
            yield asked, outcomes


def _repair(run: RepairRun, facts: GameFacts, kept: KeptOutcomes, same: bool) -> Run:  # noqa: ARG001
    rows = _Rows(run.regression, facts, kept.ends)
    part = copy.copy(run)
    part.facts, part.regression = facts, rows.part
    table, parts, schedule = control.ControlTable.none(), [], run.schedule
    rows.part.table = None
    for number, (asked, outcomes) in enumerate(kept.rounds):
        if schedule.has_entries(number):
            images = run.order[schedule.place(number)[0]]
            parts.append(entries_of(outcomes))
            if len(parts) == schedule.n_chunks:
                table.add(images.astype(np.int64), np.concatenate(parts, axis=1))
                parts = []
        elif number > schedule.n_pilot:  # the table is whole
            rows.part.table = None if run.regression.table is None else table
            rows.tell(asked, outcomes)
    part.table = table if run.regression.table is None else control.ControlTable.none()
    rows.done()
    return part


def _auto(run: AutoRun, facts: GameFacts, kept: KeptOutcomes, same: bool) -> Run:
    rows, stars = _Rows(run.regression, facts, kept.ends), _Stars(run, facts)
    part = copy.copy(run)
    part.facts, part.regression, part.star = facts, rows.part, None
    for asked, outcomes in _behind_pilot(rows, kept.rounds):
        if rows.are_next(asked):
            rows.tell(asked, outcomes)
        else:
            stars.tell(asked, outcomes)
    rows.done()
    part.moments = stars.done()
    if not same:  # of this metric nothing is decided yet
        part.still_open = np.ones_like(run.still_open)
    return part


class _Stars:
    """The stars of a run, which follow from their numbers but for the players that they sample."""

    def __init__(self, run: AutoRun, facts: GameFacts) -> None:
        self.run, self.facts, self.n_begun = run, facts, 0
        self.moments = samples.Moments.empty(facts.n_players, facts.n_metrics)
        self.star = self._begin(0)
        self.players: list[np.ndarray[tuple[int, ...], np.dtype[np.int64]]] = []
        self.values: list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = []

    def _begin(self, number: int) -> marginals.Star:
        n = self.facts.n_players
        return marginals.begin_star(
            self.facts,
            self.run.entropy,
            number,
            players=np.zeros(0, np.int64),
            sizes=star_sizes(n, self.run.regression.most),
            batch_size=self.run.settings.batch_size,
        )

    def tell(self, asked: Round, outcomes: Outcomes) -> None:
        following = self._begin(self.n_begun)
        if np.array_equal(asked.coalitions[0], following.present) and (
            asked.images is None or np.array_equal(asked.images[0], following.images)
        ):
            self._settle()
            self.star, self.n_begun = following, self.n_begun + 1
        changed = asked.coalitions ^ self.star.present
        beside = changed if self.values else changed[1:]
        if not self.n_begun or (beside.sum(axis=1) != 1).any():
            raise foreign_rows()
        self.players.append(beside.argmax(axis=1))
        self.values.append(outcomes.values)

    def _settle(self) -> None:
        """Learn from the star that is over."""
        if not self.values:
            return
        values, players = np.concatenate(self.values), np.concatenate(self.players)
        star = replace(self.star, players=players, values=values, n_known=len(values))
        self.moments.add(players, marginals.star_marginals(star))
        self.values, self.players = [], []

    def done(self) -> samples.Moments:
        """What all stars say; one that the end of the run cut off says nothing."""
        if self.n_begun <= self.run.n_stars:
            self._settle()
        if not np.array_equal(self.moments.counts, self.run.moments.counts):
            raise foreign_rows()
        return self.moments


_WAYS: dict[type, Callable[..., Run]] = {
    RegressionRun: _regression,
    RepairRun: _repair,
    AutoRun: _auto,
}
