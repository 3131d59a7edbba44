"""The course of a regression: everyone and no one, a pilot, then rounds of coalitions.

The solver runs only when the run is read: X'X is met through products with packed rows, so that
memory is n/8 + 4 (n_metrics + 4) bytes per row, and a read takes about a dozen passes over the
rows.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from repairkit.core.arrays import Array
from repairkit.core.game import GameFacts, ImagePool, Outcomes, Round, SomeImages
from repairkit.core.scores import Scores
from repairkit.estimators.linear import sizes as sizes_of
from repairkit.estimators.linear.control import Control, ControlTable
from repairkit.estimators.linear.outcome_table import OutcomeTable
from repairkit.estimators.linear.ridge import LEAST_ROWS, ErrorsOver, Fit
from repairkit.estimators.linear.rows import RegressionRows
from repairkit.estimators.linear.solving import halves_trace, mean_by_size, solve
from repairkit.estimators.statistics.boundary import Side, contested
from repairkit.estimators.statistics.intervals import around
from repairkit.estimators.walking.walks import draw_entropy

CONFIDENCE = 0.95
_GROWTH = 4
_LEAST_ROUND = 256
_FOR_TRACES = 2**62
_MOST_BEYOND = 1.3
Law = sizes_of.Law | Literal["semivalue"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Settings of a regression in one game.

    `most` is 0 where the pilot is to find it, and the law, where it is not `settled`, may then
    become Shapley's. Values are `scaled` to sum over all sizes, as
    Shapley's do; else they are a mean over the sizes drawn.
    """

    law: Law
    settled: bool
    least: int
    most: int
    lost: float
    images_per_coalition: int
    errors_over: ErrorsOver
    round_rows: int
    pilot_rows: int
    top_k: int
    side: Side
    scaled: bool


@dataclass(init=False, eq=False)
class RegressionRun:
    """First everyone and no one on every image, then the pilot, then rows.

    `ends` (2, n_metrics) are V(all) and V(none); `baseline` (n_images, n_metrics) the outcomes of
    every image with everyone present, `empty` the same with no one; `most` the largest size, 0
    until known. `tilt` is that of `sizes.semivalue_sizes`. `most_rows` is after how many rows the
    budget ends; 0 where that is not known. `pool` tells how often images are drawn for rows;
    `table`, where there is one, is a control variate that knows all of them, and `predicted` what
    it says of the rows.
    """

    stored_types: ClassVar[tuple[type, ...]] = (Fit, ControlTable)

    facts: GameFacts
    plan: Plan
    entropy: tuple[int, int]
    n_told: int
    law: Law
    most: int
    ends: NDArray[np.float64]
    baseline: NDArray[np.float64]
    empty: NDArray[np.float64]
    tilt: float
    rows: RegressionRows
    outcomes: OutcomeTable
    most_rows: int
    pool: ImagePool
    table: ControlTable | None
    predicted: OutcomeTable
    fit: Fit | None
    n_fitted: int

    def __init__(self, facts: GameFacts, plan: Plan, rng: np.random.Generator) -> None:
        self.facts, self.plan = facts, plan
        self.entropy = draw_entropy(rng)
        self.n_told = 0
        self.law = plan.law
        self.most = plan.most
        self.ends = np.zeros((0, facts.n_metrics))
        self.baseline = np.zeros((0, facts.n_metrics))
        self.empty = np.zeros((0, facts.n_metrics))
        self.tilt = 0.0
        self.rows = self._no_rows()
        self.outcomes = OutcomeTable(facts.n_metrics)
        self.most_rows = 0
        self.pool = facts.pool
        self.table = None
        self.predicted = OutcomeTable(facts.n_metrics)
        self.fit = None
        self.n_fitted = 0

    @property
    def endless(self) -> bool:
        return self.facts.n_players > 1

    @property
    def least_evaluations(self) -> int:
        """Everyone and no one, the pilot where there is one, and a first round."""
        if self.facts.n_players == 1:
            return 2
        first = min(self.plan.round_rows, _LEAST_ROUND)
        return 2 + (0 if self.plan.most else self.plan.pilot_rows) + first

    @property
    def whole_law(self) -> bool:
        """Whether all sizes are drawn, with Shapley's weights, so that nothing is left out."""
        return self.law == "shapley"

    @property
    def conclusion(self) -> str:
        return "the only player has all"

    @property
    def n_undecided(self) -> int | None:
        """Unknown until the rows are solved."""
        return None

    @property
    def statistics(self) -> dict[str, float]:
        """Of the rows and of the last fit, see `ridge.Fit`."""
        known = {"rows": float(len(self.rows)), "most_removed": float(self.most)}
        fitted = self.fit_rows()
        if fitted is None:
            return known
        reliability = _reliability(fitted.shares[:, 0], fitted.errors[:, 0])
        return known | {
            "penalty": fitted.penalty,
            "degrees_of_freedom": fitted.degrees,
            "cross_validated_r2": fitted.r2,
            "reliability": reliability,
        }

    @property
    def details(self) -> dict[str, Any]:
        if len(self.rows) < 2 * LEAST_ROWS:
            return {}
        trace = halves_trace(self.rows, self.outcomes, self.baseline, self.ends[0])
        before = (0 if self.plan.most else self.plan.pilot_rows) + len(self.ends)
        return {
            "convergence": [[float(before + n), correlation] for n, correlation in trace],
            "curve": mean_by_size(self.rows, self.outcomes, self.facts.guard),
        }

    def ask(self) -> Round:
        n = self.facts.n_players
        if not len(self.ends):
            return Round(np.stack([np.ones(n, bool), np.zeros(n, bool)]))
        if n == 1:
            return Round.nothing(n)
        return self._draw(self.n_told, len(self.rows))

    def can_be_told(self, n_rows: int) -> bool:
        """See `driving.driver`: rows count one by one, and the pilot's sizes take turns."""
        return bool(len(self.ends)) and (bool(self.most) or n_rows >= sizes_of.MEASURED)

    def ask_ahead(self, pending: Sequence[Round]) -> Round | None:
        """See `driving.playing`: after the pilot no round depends on outcomes."""
        if not len(self.ends) or not self.most or self.facts.n_players == 1:
            return None
        return self._draw(self.n_told + len(pending), len(self.rows) + sum(map(len, pending)))

    def _draw(self, number: int, n_known: int) -> Round:
        """Round `number`, asked when `n_known` rows are known."""
        n = self.facts.n_players
        rng = np.random.default_rng([*self.entropy, number])
        if not self.most:
            sizes = sizes_of.pilot_sizes(n, self.plan.pilot_rows)
        else:
            sizes = self._draw_sizes(rng, n_known)
        coalitions = sizes_of.remove_at_random(rng, sizes, n)
        per_row = self.plan.images_per_coalition
        images = self.pool.draw(rng, len(sizes) * per_row)
        return Round(coalitions, rng.permutation(images).reshape(len(sizes), per_row))

    def _draw_sizes(self, rng: np.random.Generator, n_known: int) -> NDArray[np.int64]:
        """Rounds grow with what is known, so that any budget is nearly used."""
        plan, n = self.plan, self.facts.n_players
        n_rows = min(plan.round_rows, max(_LEAST_ROUND, n_known // _GROWTH))
        if n_known < self.most_rows:
            n_rows = min(n_rows, self.most_rows - n_known)
        if self.law == "semivalue":
            shares, _ = sizes_of.semivalue_sizes(plan.least, self.most, n, self.tilt)
            return sizes_of.draw_sizes(rng, shares, 0, n_rows)
        shares = sizes_of.probabilities(self.law, plan.least, self.most, n)
        return sizes_of.draw_sizes(rng, shares, plan.least, n_rows)

    def tell(self, outcomes: Outcomes) -> None:
        if not len(self.ends):
            self.ends = outcomes.values.copy()
            self.baseline, self.empty = (self._as_on_drawn_rows(outcomes, end) for end in (0, 1))
        elif not self.most:
            self._read_pilot(outcomes.values)
        else:
            asked = self.ask() if outcomes.asked is None else outcomes.asked
            self.rows.add(asked)
            self.outcomes.add(outcomes.values)
            if self.table is not None:
                self.predicted.add(self.table.predict(asked, len(self.pool)))
        self.n_told += 1

    def _as_on_drawn_rows(self, outcomes: Outcomes, end: int) -> NDArray[np.float64]:
        """The outcomes of every image in one of the ends, as a drawn row would tell them."""
        pool, scores = self.facts.pool, outcomes.scores[end]
        if len(scores) != len(pool):  # one image stands for all, see `driving.playing`
            scores = outcomes.values[end, None]
        # On a drawn row an image's score is larger the more rarely it is drawn.
        drawn = (pool.probabilities * len(pool))[:, None]
        found: NDArray[np.float64] = np.zeros_like(scores)
        np.divide(scores, drawn, out=found, where=drawn > 0)
        return found

    def draw_on(self, images: NDArray[np.intp]) -> None:
        """Draw rows on these images alone, for what a control variate leaves of them."""
        assert not len(self.rows), "rows of another law"
        self.pool = _restricted(self.facts.pool, images)
        # Of single removals nothing is left, and the rest grows with the square of their number.
        self.tilt = 0.5
        self.rows = self._no_rows()

    def _no_rows(self) -> RegressionRows:
        n, plan = self.facts.n_players, self.plan
        if self.law != "semivalue" or n == 1:
            return RegressionRows.none(n)
        weights = sizes_of.semivalue_sizes(plan.least, plan.most, n, self.tilt)[1]
        return RegressionRows.none(n, weights)

    def use(self, table: ControlTable) -> None:
        """From now on with a control variate, which knows all images that rows are drawn on."""
        assert not len(self.rows), "rows without predictions"
        self.table = table

    def on_images(self, some: SomeImages) -> RegressionRun | None:
        """The same run as if these images were all there are, from their rows alone.

        A pilot's finding, how many removals V survives, stays that of all images. None where
        images share coalitions.
        """
        if self.plan.images_per_coalition != 1 or not len(self.ends):
            return None
        part = copy.copy(self)
        part.facts, part.fit, part.n_fitted = some.facts, None, 0
        part.baseline = self.baseline[some.positions] * some.drawn
        part.empty = self.empty[some.positions] * some.drawn
        drawn = some.facts.pool.probabilities
        part.ends = np.stack([drawn @ part.baseline, drawn @ part.empty])
        part.rows, numbers = self.rows.on(some.positions, some.n_all)
        factors = some.drawn[part.rows.all_images()[:, 0]] if len(numbers) else some.drawn[:0]
        part.outcomes = self.outcomes.part(numbers, factors)
        part.pool = some.facts.pool
        if self.table is not None:
            part.table = self.table.on(some)
            if not len(part.table):
                return None
            part.pool = _restricted(some.facts.pool, part.table.images)
            part.predicted = self.predicted.part(numbers, factors)
        return part

    def _read_pilot(self, values: NDArray[np.float64]) -> None:
        guard, n = self.facts.guard, self.facts.n_players
        full, empty = (float(end) for end in self.ends[:, guard])
        sizes = sizes_of.pilot_sizes(n, len(values))
        if not self.plan.settled and sizes_of.falls_below(sizes, values[:, guard], empty):
            self.law, self.most = "shapley", n - 1
            return
        self.most = sizes_of.find_collapse(
            sizes, values[:, guard], full=full, empty=empty, lost=self.plan.lost, n_players=n
        )

    def fit_rows(self) -> Fit | None:
        """The fit of all rows so far, solved once for each number of rows; None for too few."""
        if len(self.rows) < LEAST_ROWS:
            return None
        if self.fit is None or self.n_fitted != len(self.rows):
            self.fit = self._solve(self.rows, self.outcomes)
            self.n_fitted = len(self.rows)
        return self.fit

    def _solve(self, rows: RegressionRows, outcomes: OutcomeTable) -> Fit:
        table, predicted = self.table, self.predicted
        return solve(
            replace(self.facts, pool=self.pool),
            rows,
            outcomes,
            baseline=self.baseline,
            full=self.ends[0],
            errors_over=self.plan.errors_over,
            entropy=(*self.entropy, _FOR_TRACES),
            span=(self.plan.least, self.most) if self.law == "semivalue" else None,
            control=None if table is None else Control(table, predicted, self.pool),
        )

    def estimates(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Values and standard errors, (n_players, n_metrics); zeros and infinity if unknown."""
        n, shape = self.facts.n_players, (self.facts.n_players, self.facts.n_metrics)
        grand = self.ends[0] - self.ends[1] if len(self.ends) else np.zeros(shape[1])
        if n == 1 and len(self.ends):
            return grand[None], np.zeros(shape)
        fitted = self.fit_rows()
        if fitted is None:
            return np.zeros(shape), np.full(shape, np.inf)
        if self.whole_law:
            return fitted.shares + grand / n, fitted.errors
        # At a fixed size, someone absent means that one fewer of the others is.
        scale = self._scale(fitted.drops) if self.plan.scaled else 1.0
        values = scale * (fitted.shares + fitted.drops)
        return values, scale * np.hypot(fitted.errors, fitted.drop_errors)

    def _scale(self, drops: NDArray[np.float64]) -> float:
        """The share of all sizes that a value is a sum over.

        It is that of the sizes drawn and what makes up for the others: such that the guard's values
        add up to its V(all) - V(none), as Shapley's do, within bounds.
        """
        guard, drawn = self.facts.guard, self.most / self.facts.n_players
        grand, paid = self.ends[0, guard] - self.ends[1, guard], drops[guard] * self.most
        ratio = grand / paid if grand > 0 and paid > 0 else 1.0
        return drawn * float(np.clip(ratio, 1.0, _MOST_BEYOND))

    def read(self) -> Scores:
        values, errors = self.estimates()
        n, plan = self.facts.n_players, self.plan
        normal = NormalDist()
        low, high = around(values, normal.inv_cdf(0.5 + CONFIDENCE / 2) * errors)
        # For all players together (Bonferroni).
        joint = around(values[:, 0], normal.inv_cdf(1 - (1 - CONFIDENCE) / (2 * n)) * errors[:, 0])
        still_open = contested(*joint, values[:, 0], top_k=plan.top_k, side=plan.side, epsilon=0.0)
        known = bool(np.isfinite(errors).any())
        return Scores(
            metrics=self.facts.metrics,
            values=values,
            std_errors=errors,
            ci_low=low,
            ci_high=high,
            samples=self._samples() if known else np.zeros(n, np.int64),
            decided=~still_open,
            confidence=CONFIDENCE,
            interval=self._describe(),
            efficient=self.whole_law,
        )

    def _samples(self) -> NDArray[np.int64]:
        return (
            self.rows.counts.copy() if len(self.rows) else np.ones(self.facts.n_players, np.int64)
        )

    def _describe(self) -> str:
        plan, n = self.plan, self.facts.n_players
        errors = "rows" if plan.errors_over == "rows" else "images (clusters)"
        what = f"sandwich errors over {errors}, normal, for one filter at one look"
        if self.whole_law:
            return what
        if plan.scaled:
            return f"{what}; values cut off behind {self.most} of {n} removals"
        return f"{what}; a semivalue over {plan.least} to {self.most} of {n} removals{self._told()}"

    def _told(self) -> str:
        """What there is to say of the table."""
        fitted = self.fit
        if self.table is None or fitted is None or not len(fitted.coefficients):
            return ""
        return (
            f"; beside the rows a table of what {len(self.table)} images lose with each filter "
            f"alone, times {fitted.coefficients[0]:.2f}, which explains "
            f"{100 * fitted.explained[0]:.0f} % of the rows' variance"
        )


def _restricted(pool: ImagePool, images: Array) -> ImagePool:
    """The pool of which no other images are drawn."""
    probabilities = np.zeros(len(pool))
    probabilities[images] = pool.probabilities[images]
    return ImagePool(probabilities / probabilities.sum(), pool.strata)


def _reliability(shares: NDArray[np.float64], errors: NDArray[np.float64]) -> float:
    """The correlation that two runs like this would have: variance less error, over variance."""
    total = float(shares.var())
    return max(1 - float((errors**2).mean()) / total, 0.0) if total > 0 else 0.0
