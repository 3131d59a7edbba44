"""Fit all metrics of a game, each on the rows that say something about it."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from repairkit.core.game import GameFacts
from repairkit.estimators.linear.control import Control, Rows
from repairkit.estimators.linear.outcome_table import OutcomeTable, shares
from repairkit.estimators.linear.ridge import LEAST_ROWS, ErrorsOver, Fit, fit
from repairkit.estimators.linear.rows import RegressionRows
from repairkit.estimators.statistics.convergence import rank_correlation

Floats = NDArray[np.float64]

_PARTS = (1 / 8, 1 / 4, 1 / 2, 1.0)
_POINTS = 100


def solve(
    facts: GameFacts,
    rows: RegressionRows,
    outcomes: OutcomeTable,
    *,
    baseline: Floats,
    full: Floats,
    errors_over: ErrorsOver,
    entropy: tuple[int, ...],
    span: tuple[int, int] | None = None,
    control: Control | None = None,
) -> Fit:
    """See `ridge.fit`; a metric with too few rows of its own gets zeros and infinite errors.

    Args:
        facts: of the game.
        rows: at least `ridge.LEAST_ROWS`.
        outcomes: of the rows.
        baseline: outcome of every image with everyone present, (n_images, n_metrics).
        full: V(all), (n_metrics,).
        errors_over: see `ridge.fit`.
        entropy: of the generator that estimates traces.
        span: see `ridge.fit`.
        control: predictions of the rows, if there are any.
    """
    shape = (facts.n_players, facts.n_metrics)
    whole = _nothing_known(shape)
    columns, joined = outcomes.columns(), None
    known = None if control is None else control.predicted.columns()
    told = np.zeros((2, facts.n_metrics))
    for share in shares(facts, rows):
        metrics, own = share.metrics, rows
        if share.rows is not None:
            if len(share.rows) < LEAST_ROWS:
                continue
            joined = rows.joined() if joined is None else joined
            own = joined.part(share.rows)
        given = columns.of(metrics, share.rows) * share.weight
        base, beside = baseline[:, metrics] * share.weight, None
        if control is not None and known is not None:
            predicted = known.of(metrics, share.rows) * share.weight
            beside, added, told[:, metrics] = control.beside(
                Rows.of(own, given, predicted, base, full[metrics]), share
            )
            given += added
        found = fit(
            own,
            given,
            base,
            full[metrics],
            errors_over=errors_over,
            rng=np.random.default_rng(entropy),
            span=span,
            beside=beside,
        )
        whole.shares[:, metrics], whole.errors[:, metrics] = found.shares, found.errors
        whole.drops[metrics], whole.drop_errors[metrics] = found.drops, found.drop_errors
        if metrics[0] == 0:
            whole = dataclasses.replace(
                whole, penalty=found.penalty, degrees=found.degrees, r2=found.r2
            )
    if control is None:
        return whole
    return dataclasses.replace(whole, coefficients=told[0], explained=told[1])


def halves_trace(
    rows: RegressionRows, outcomes: OutcomeTable, baseline: Floats, full: Floats
) -> list[tuple[int, float]]:
    """How well two halves of the rows agree on the first metric.

    After an eighth, a quarter, a half and all of the rows: their number, and the rank correlation
    of what every other row says with what the rest say.
    """
    columns, joined, first = outcomes.columns(), rows.joined(), np.zeros(1, np.intp)
    trace = []
    for part in _PARTS:
        n_rows = int(len(rows) * part)
        if n_rows < 2 * LEAST_ROWS:
            continue
        sides = []
        for numbers in (np.arange(0, n_rows, 2), np.arange(1, n_rows, 2)):
            found = fit(
                joined.part(numbers),
                columns.of(first, numbers),
                baseline[:, :1],
                full[:1],
                errors_over="rows",
                rng=np.random.default_rng(0),
            )
            sides.append(found.shares[:, 0])
        correlation = rank_correlation(*sides)
        if np.isfinite(correlation):
            trace.append((n_rows, correlation))
    return trace


def mean_by_size(
    rows: RegressionRows, outcomes: OutcomeTable, guard: int
) -> list[list[float | int]]:
    """A hundred points at most: removals, rows, means of the first metric and of the guard.

    Sizes next to one another share a point where there are more.
    """
    values = outcomes.columns().of(np.array([0, guard]), None)
    sizes = rows.all_sizes()
    points: list[list[float | int]] = []
    for numbers in np.array_split(np.argsort(sizes, kind="stable"), min(_POINTS, len(sizes))):
        mean = values[numbers].mean(axis=0).tolist()
        points.append([float(sizes[numbers].mean()), len(numbers), *mean])
    return points


def _nothing_known(shape: tuple[int, int]) -> Fit:
    unknown = np.full(shape, np.inf)
    return Fit(
        shares=np.zeros(shape),
        errors=unknown,
        drops=np.zeros(shape[1]),
        drop_errors=np.full(shape[1], np.inf),
        penalty=0.0,
        degrees=0.0,
        r2=0.0,
    )
