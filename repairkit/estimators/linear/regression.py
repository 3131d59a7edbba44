"""Regression: many small coalitions, each on an image of its own, and ridge over all of them.

A coalition is a set of players (filters) that are present, and V is the metric of the network that
it leaves. Each row, one coalition on one image, says a little about every player. After all players
and none on every image come a pilot, which finds how many removals V survives (rows beyond would
say nothing), and then rounds of rows.

The solver runs only when the run is read. X'X is only used through products with packed rows, so
memory is n/8 + 4 (n_metrics + 4) bytes per row, and a read takes about a dozen passes over the
rows.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import NormalDist
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from repairkit.core.game import GameFacts, ImagePool, Outcomes, Round, SomeImages
from repairkit.core.scores import ErrorsOver, Scores
from repairkit.estimators import questions
from repairkit.estimators.linear import all_sizes, drawing, pooling, ridge
from repairkit.estimators.linear.control import ControlTable
from repairkit.estimators.linear.fits import LEAST_ROWS, Fit, FullOutcomes
from repairkit.estimators.linear.rows import OutcomeTable, RegressionRows, as_on_drawn_rows
from repairkit.estimators.samples import around, draw_entropy, joint_bounds

Floats = NDArray[np.float64]

FEW_PLAYERS = 64
CONFIDENCE = 0.95
JUST_ABOVE_ONE = math.nextafter(1, 2)
_FOR_TRACES = 2**62
_GROWTH = 4


@dataclass(frozen=True, kw_only=True)
class Regression:
    """Ridge regression over coalitions of up to as many removals as V survives.

    Attributes:
        sizes: how often to remove j players, see `drawing.Law`. If None, `shapley` up to
            `FEW_PLAYERS` players, since too much of their values lies beyond the collapse, and
            `pooled` for more (`balanced` with `most_removed`, or errors over images). If the pilot
            finds V below V(none), it is `shapley` for these too, since the sizes beyond the
            collapse then cannot be left out.
        lost: the share of V(all) - V(none), of the guard metric, that is lost at the largest size.
        most_removed: the largest size as a share of the players, in place of the pilot; with
            `shapley` all sizes are drawn and neither counts.
        images_per_coalition: images that share a coalition.
        errors_over: `rows` states errors for these images, `images` for others like them.
        round_rows: the most coalitions in a round.
        pilot_rows: coalitions of the pilot.
        top_k: the question that `decided` answers; a tenth of the players, 1 to 100, if None.
        side: whether the `highest`, the `lowest` or `both` top k are asked for.
    """

    sizes: drawing.Law | None = None
    lost: float = 0.85
    most_removed: float | None = None
    images_per_coalition: int = 1
    errors_over: ErrorsOver = "rows"
    round_rows: int = 4096
    pilot_rows: int = 512
    top_k: int | None = None
    side: questions.Side = "highest"

    def __post_init__(self) -> None:
        if self.sizes is not None and self.sizes not in drawing.LAWS:
            raise questions.unknown("sizes", str(self.sizes), drawing.LAWS)
        questions.check_positive("lost", self.lost, below=JUST_ABOVE_ONE)
        if self.most_removed is not None:
            questions.check_positive("most_removed", self.most_removed, below=JUST_ABOVE_ONE)
        for name in ("images_per_coalition", "round_rows", "pilot_rows"):
            questions.check_whole(name, getattr(self, name), least=1)
        drawing.check_errors_over(self.errors_over, self.images_per_coalition, self.sizes)
        questions.check_question(self.top_k, self.side)

    def start(self, facts: GameFacts, rng: np.random.Generator) -> RegressionRun:
        """Begin; SettingsError if the game has fewer players than `top_k`."""
        n = facts.n_players
        most = max(n - 1, 1)
        law = self._law(n)
        if law == "shapley":
            reach = most
        elif self.most_removed is not None:
            reach = min(max(round(self.most_removed * n), 1), most)
        else:
            reach = 0
        plan = drawing.RegressionPlan(
            law=law,
            settled=self.sizes is not None or self.most_removed is not None,
            least=1,
            most=reach,
            lost=self.lost,
            images_per_coalition=self.images_per_coalition,
            errors_over=self.errors_over,
            round_rows=self.round_rows,
            pilot_rows=self.pilot_rows,
            top_k=questions.settle_top_k(self.top_k, n),
            side=self.side,
            scaled=True,
        )
        return begin_regression(facts, plan, rng)

    def _law(self, n_players: int) -> drawing.Law:
        if self.sizes is not None:
            return self.sizes
        if self.most_removed is None and n_players <= FEW_PLAYERS:
            return "shapley"
        apart = self.most_removed is not None or self.errors_over == "images"
        return "balanced" if apart else "pooled"


@dataclass(kw_only=True, eq=False)
class RegressionRun:
    """First all players and none on every image, then the pilot, then rows.

    `ends` (2, n_metrics) are V(all) and V(none); `baseline` (n_images, n_metrics) the outcomes of
    every image with all players present, `empty` with none; `most` the largest size, 0 until it is
    known. `tilt` is that of `drawing.semivalue_sizes`. `most_rows` is after how many rows the
    budget ends; 0 where that is not known. `pool` says how often images are drawn for rows.
    `table`, where there is one, is a control variate (see `control`) that covers all of these
    images, and `predicted` holds its predictions of the rows. `fit` is that of the first `n_fitted`
    rows; `beyond` is how it stands to sizes behind the collapse.
    """

    stored_types: ClassVar[tuple[type, ...]] = (Fit, ControlTable)

    facts: GameFacts
    plan: drawing.RegressionPlan
    entropy: tuple[int, int]
    law: drawing.AnyLaw
    most: int
    ends: Floats
    baseline: Floats
    empty: Floats
    rows: RegressionRows
    outcomes: OutcomeTable
    pool: ImagePool
    predicted: OutcomeTable
    n_told: int = 0
    tilt: float = 0.0
    most_rows: int = 0
    table: ControlTable | None = None
    fit: Fit | None = None
    n_fitted: int = 0
    beyond: all_sizes.Beyond = field(default_factory=all_sizes.Beyond)

    @property
    def endless(self) -> bool:
        return self.facts.n_players > 1

    @property
    def least_evaluations(self) -> int:
        """All players and none, the pilot where there is one, and a first round."""
        if self.facts.n_players == 1:
            return 2
        return 2 + self.pilot_rows + min(self.plan.round_rows, drawing.LEAST_ROUND)

    @property
    def pilot_rows(self) -> int:
        """Rows of the pilot, where there is one."""
        return 0 if self.plan.most else self.plan.pilot_rows

    @property
    def whole_law(self) -> bool:
        """Whether values are sums over all sizes, so that nothing is left out."""
        return self.law == "shapley" or self.beyond.pooled

    @property
    def conclusion(self) -> str:
        return "the only player has all"

    n_undecided: ClassVar[None] = None  # unknown until the rows are solved

    @property
    def statistics(self) -> dict[str, float]:
        """Of the rows and of the last fit, see `fits.Fit`."""
        return _statistics(self)

    @property
    def details(self) -> dict[str, object]:
        return _details(self)

    def ask(self) -> Round:
        n = self.facts.n_players
        if not len(self.ends):
            return Round(np.stack([np.ones(n, bool), np.zeros(n, bool)]))
        if n == 1:
            return Round.nothing(n)
        return _drawn(self, self.n_told, len(self.rows))

    def can_be_told(self, n_rows: int) -> bool:
        """See `driving.driver`: rows count one by one, and the pilot's sizes take turns."""
        return bool(len(self.ends)) and (bool(self.most) or n_rows >= drawing.MEASURED)

    def ask_ahead(self, pending: Sequence[Round]) -> Round | None:
        """See `driving.playing`: after the pilot no round depends on outcomes."""
        n_known = len(self.rows) + sum(map(len, pending))
        ready = len(self.ends) and self.most and self.endless
        if not ready or 0 < self.beyond.look_at <= n_known:
            return None
        return _drawn(self, self.n_told + len(pending), n_known)

    def tell(self, outcomes: Outcomes) -> None:
        if not len(self.ends):
            self.ends, pool = outcomes.values.copy(), self.facts.pool
            self.baseline, self.empty = (as_on_drawn_rows(pool, outcomes, end) for end in (0, 1))
        elif not self.most:
            self.law, self.most = _read_pilot(self, outcomes.values[:, self.facts.guard])
            _begin_rows(self)
        else:
            asked = self.ask() if outcomes.asked is None else outcomes.asked
            self.rows.add(asked)
            self.outcomes.add(outcomes.values)
            if self.table is not None:
                self.predicted.add(self.table.predict(asked, len(self.pool)))
            if 0 < self.beyond.look_at <= len(self.rows):
                self.beyond = all_sizes.look(_known(self))
        self.n_told += 1

    def draw_on(self, images: NDArray[np.intp]) -> None:
        """Draw rows on these images alone, for what a control variate leaves of them."""
        assert not len(self.rows), "rows of another law"
        self.pool = self.facts.pool.restricted_to(images)
        # Of single removals nothing is left, and the rest grows with the square of their number.
        self.tilt = 0.5
        _begin_rows(self)

    def use(self, table: ControlTable) -> None:
        """Use a control variate from now on; it covers all images that rows are drawn on."""
        assert not len(self.rows), "rows without predictions"
        self.table = table

    def fit_rows(self) -> Fit | None:
        """The fit of all rows so far, solved once for each number of rows; None for too few."""
        if len(self.rows) < LEAST_ROWS:
            return None
        if self.fit is None or self.n_fitted != len(self.rows):
            self.fit = _solved(self)
            self.n_fitted = len(self.rows)
        return self.fit

    def on_images(self, some: SomeImages) -> RegressionRun | None:
        """See `driving.driver`: from the rows of these images alone.

        How many removals V survives stays what the pilot found on all images. None where images
        share coalitions.
        """
        return _on_images(self, some)

    def estimates(self) -> tuple[Floats, Floats]:
        """Values and standard errors, (n_players, n_metrics); zeros and infinity if unknown."""
        return _estimates(self)

    def read(self) -> Scores:
        return _scores(self)


def begin_regression(
    facts: GameFacts, plan: drawing.RegressionPlan, rng: np.random.Generator
) -> RegressionRun:
    """A run that knows nothing yet."""
    nothing = np.zeros((0, facts.n_metrics))
    run = RegressionRun(
        facts=facts,
        plan=plan,
        entropy=draw_entropy(rng),
        law=plan.law,
        most=plan.most,
        ends=nothing,
        baseline=nothing,
        empty=nothing,
        rows=RegressionRows.none(facts.n_players),
        outcomes=OutcomeTable(facts.n_metrics),
        pool=facts.pool,
        predicted=OutcomeTable(facts.n_metrics),
    )
    if run.most:
        _begin_rows(run)
    return run


# What a run asks and takes in


def _drawn(run: RegressionRun, number: int, n_known: int) -> Round:
    """Round `number`, asked when `n_known` rows are known; a pilot while `most` is 0."""
    n, plan = run.facts.n_players, run.plan
    rng = np.random.default_rng([*run.entropy, number])
    sizes = _sizes(run, rng, n_known) if run.most else drawing.pilot_sizes(n, plan.pilot_rows)
    coalitions = drawing.remove_at_random(rng, sizes, n)
    per_row = plan.images_per_coalition
    images = run.pool.draw(rng, len(sizes) * per_row)
    return Round(coalitions, rng.permutation(images).reshape(len(sizes), per_row))


def _sizes(run: RegressionRun, rng: np.random.Generator, n_known: int) -> NDArray[np.int64]:
    """Rounds grow with what is known, so that any budget is nearly used."""
    n, least = run.facts.n_players, run.plan.least
    n_rows = min(run.plan.round_rows, max(drawing.LEAST_ROUND, n_known // _GROWTH))
    if n_known < run.most_rows:
        n_rows = min(n_rows, run.most_rows - n_known)
    if run.law in drawing.BALANCED:
        shares, _ = drawing.semivalue_sizes(least, run.most, n, run.tilt)
        if run.beyond.share:
            behind = all_sizes.shares_behind(run.most, n)
            shares = (1 - run.beyond.share) * shares + run.beyond.share * behind
        return drawing.draw_sizes(rng, shares, 0, n_rows)
    shares = drawing.probabilities(run.law, least, run.most, n)
    return drawing.draw_sizes(rng, shares, least, n_rows)


def _read_pilot(run: RegressionRun, values: Floats) -> tuple[drawing.AnyLaw, int]:
    guard, per_row = run.facts.guard, run.plan.images_per_coalition
    none = drawing.Level.of(run.facts.pool, run.empty[:, guard], per_row)
    full, n = float(run.ends[0, guard]), run.facts.n_players
    return drawing.read_pilot(run.plan, values, full=full, none=none, n_players=n)


def _begin_rows(run: RegressionRun) -> None:
    """No rows yet, and the weights that they will have."""
    n, weights = run.facts.n_players, None
    if run.law in drawing.BALANCED and n > 1:
        weights = drawing.semivalue_sizes(run.plan.least, run.most, n, run.tilt)[1]
    run.rows = RegressionRows.none(n, weights)
    if run.law == "pooled":
        run.beyond = all_sizes.begin(run.most, n)


def _on_images(run: RegressionRun, some: SomeImages) -> RegressionRun | None:
    if run.plan.images_per_coalition != 1 or not len(run.ends):
        return None
    part = copy.copy(run)
    part.facts, part.fit, part.n_fitted = some.facts, None, 0
    part.baseline = run.baseline[some.positions] * some.drawn
    part.empty = run.empty[some.positions] * some.drawn
    drawn = some.facts.pool.probabilities
    part.ends = np.stack([drawn @ part.baseline, drawn @ part.empty])
    part.rows, numbers = run.rows.on(some.positions, some.n_all)
    factors = some.drawn[part.rows.all_images()[:, 0]] if len(numbers) else some.drawn[:0]
    part.outcomes = run.outcomes.part(numbers, factors)
    part.pool = some.facts.pool
    if run.table is not None:
        part.table = run.table.on(some)
        if not len(part.table):
            return None
        part.pool = some.facts.pool.restricted_to(part.table.images)
        part.predicted = run.predicted.part(numbers, factors)
    return part


# What a run says


def widen_errors(run: RegressionRun) -> None:
    """Let a run of few rows state errors that hold: those of players valued one by one, at least.

    With few rows, ridge takes noise for structure. Its values are still the better ones, but its
    errors are too small.
    """
    fitted = run.fit_rows()
    if fitted is not None:
        alone = _solved(run, few=True)
        run.fit = replace(
            fitted,
            errors=np.maximum(fitted.errors, alone.errors),
            drop_errors=np.maximum(fitted.drop_errors, alone.drop_errors),
            noise=np.maximum(fitted.drawn_errors, alone.drawn_errors),
        )


def borrowed_from(run: RegressionRun) -> tuple[int, ...]:
    """Columns of auxiliary metrics that help to know values; empty without, or with few players."""
    asked = run.plan.scaled and run.plan.errors_over == "rows" and run.law != "shapley"
    return run.facts.auxiliaries if asked and run.facts.n_players > FEW_PLAYERS else ()


def _known(run: RegressionRun, *, few: bool = False) -> all_sizes.RowsKnown:
    control, table = None, run.table
    if table is not None:
        control = ridge.ControlVariate(table, run.predicted, run.pool)
    return all_sizes.RowsKnown(
        facts=replace(run.facts, pool=run.pool, auxiliaries=borrowed_from(run)),
        rows=run.rows,
        outcomes=run.outcomes,
        full=FullOutcomes(run.baseline, run.ends[0]),
        empty=run.empty,
        most=run.most,
        errors_over=run.plan.errors_over,
        entropy=None if few else (*run.entropy, _FOR_TRACES),
        solve=partial(ridge.solve, control=control),
    )


def _solved(run: RegressionRun, *, few: bool = False) -> Fit:
    known = _known(run, few=few)
    if run.beyond.pooled:
        return all_sizes.solve_pooled(known)
    span = (run.plan.least, run.most) if run.law in drawing.BALANCED else None
    return known.up_to_collapse().fit(span) if few else all_sizes.solve_cut_off(known, span)


def _statistics(run: RegressionRun) -> dict[str, float]:
    known = {"rows": float(len(run.rows)), "most_removed": float(run.most)}
    if (fitted := run.fit_rows()) is None:
        return known
    if run.law == "pooled":
        known["rows_behind_collapse"] = float(sum((s > run.most).sum() for s in run.rows.sizes))
    return known | {
        "penalty": fitted.penalty,
        "degrees_of_freedom": fitted.degrees,
        "cross_validated_r2": fitted.r2,
        "reliability": fitted.reliability,
    }


def _details(run: RegressionRun) -> dict[str, object]:
    if len(run.rows) < 2 * LEAST_ROWS:
        return {}
    part, before = _known(run).up_to_collapse(), run.pilot_rows + len(run.ends)
    trace = ridge.halves_trace(part.rows, part.outcomes, part.full)
    curve = ridge.mean_by_size(run.rows, run.outcomes, run.facts.guard)
    return {"convergence": [[float(before + n), each] for n, each in trace], "curve": curve}


def _estimates(run: RegressionRun) -> tuple[Floats, Floats]:
    n, shape = run.facts.n_players, (run.facts.n_players, run.facts.n_metrics)
    grand = run.ends[0] - run.ends[1] if len(run.ends) else np.zeros(shape[1])
    if n == 1 and len(run.ends):
        return grand[None], np.zeros(shape)
    fitted = run.fit_rows()
    if fitted is None:
        return np.zeros(shape), np.full(shape, np.inf)
    if run.whole_law:
        return fitted.shares + grand / n, fitted.errors
    if run.plan.scaled:
        return all_sizes.cut_off(fitted, grand, run.most, run.facts)
    # At a fixed size, one player absent means that one fewer of the others is.
    return fitted.shares + fitted.drops, np.hypot(fitted.errors, fitted.drop_errors)


def _describe(run: RegressionRun) -> str:
    """What the intervals are, for reports."""
    plan, n = run.plan, run.facts.n_players
    errors = "rows" if plan.errors_over == "rows" else "images (clusters)"
    words = f"sandwich errors over {errors}, normal, for one filter at one look"
    words += pooling.BORROWED if borrowed_from(run) else ""
    if run.beyond.pooled:
        return f"{words}; pooled over all sizes by how these go together over all filters"
    if run.whole_law:
        return words
    if plan.scaled:
        return f"{words}; values cut off behind {run.most} of {n} removals"
    semivalue = f"{words}; a semivalue over {plan.least} to {run.most} of {n} removals"
    fitted = run.fit
    if run.table is None or fitted is None or not len(fitted.coefficients):
        return semivalue
    told = f"times {fitted.coefficients[0]:.2f}, which explains {100 * fitted.explained[0]:.0f} %"
    table = f"beside the rows a table of what {len(run.table)} images lose with each filter alone"
    return f"{semivalue}; {table}, {told} of the rows' variance"


def _scores(run: RegressionRun) -> Scores:
    (values, errors), fitted = run.estimates(), run.fit
    n, plan = run.facts.n_players, run.plan
    normal = NormalDist()
    low, high = around(values, normal.inv_cdf(0.5 + CONFIDENCE / 2) * errors)
    # For all players together (Bonferroni).
    joint = joint_bounds(values, errors, 1 - (1 - CONFIDENCE) / n)
    still_open = questions.contested(
        joint[:, 0], joint[:, 1], values[:, 0], top_k=plan.top_k, side=plan.side, epsilon=0.0
    )
    samples = run.rows.counts.copy() if len(run.rows) else np.ones(n, np.int64)
    known = bool(np.isfinite(errors).any())
    return Scores(
        metrics=run.facts.metrics,
        values=values,
        std_errors=errors,
        ci_low=low,
        ci_high=high,
        samples=samples if known else np.zeros(n, np.int64),
        decided=~still_open,
        confidence=CONFIDENCE,
        interval=_describe(run),
        efficient=run.law == "shapley",
        joint=joint,
        errors_over=plan.errors_over,
        noise=fitted.noise[:, 0] if fitted and fitted.noise.size else None,
    )
