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
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from repairkit.core.game import GameFacts, ImagePool, Outcomes, Round, SomeImages
from repairkit.core.scores import ErrorsOver, Scores
from repairkit.estimators import questions
from repairkit.estimators.linear import drawing, ridge
from repairkit.estimators.linear.control import ControlTable
from repairkit.estimators.linear.rows import OutcomeTable, RegressionRows
from repairkit.estimators.samples import around, draw_entropy, joint_bounds

Floats = NDArray[np.float64]

FEW_PLAYERS = 64
CONFIDENCE = 0.95
JUST_ABOVE_ONE = math.nextafter(1, 2)
_FOR_TRACES = 2**62
_GROWTH = 4
_MOST_BEYOND = 1.3


@dataclass(frozen=True, kw_only=True)
class Regression:
    """Ridge regression over coalitions of up to as many removals as V survives.

    Attributes:
        sizes: how often to remove j players. `balanced`, all sizes up to the collapse as often, and
            rows weighted back so that each size counts the same: values are those of Shapley
            without the sizes beyond the collapse; `falling`, with probability 1/sqrt(j), and
            `even`, both without weights, so that sizes count by j (n - j) too; `shapley`, with
            Shapley's own weights up to all players: unbiased and, for many players, noisier. If
            None, `shapley` up to `FEW_PLAYERS` players, since too much of their values lies beyond
            the collapse, and `balanced` for more. If the pilot finds V below V(none), it is
            `shapley` for these too, since the sizes beyond the collapse then cannot be left out.
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
        drawing.check_errors_over(self.errors_over, self.images_per_coalition)
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
        few = n_players <= FEW_PLAYERS and self.most_removed is None
        return "shapley" if few else "balanced"


@dataclass(kw_only=True, eq=False)
class RegressionRun:
    """First all players and none on every image, then the pilot, then rows.

    `ends` (2, n_metrics) are V(all) and V(none); `baseline` (n_images, n_metrics) the outcomes of
    every image with all players present, `empty` with none; `most` the largest size, 0 until it is
    known. `tilt` is that of `drawing.semivalue_sizes`. `most_rows` is after how many rows the
    budget ends; 0 where that is not known. `pool` says how often images are drawn for rows.
    `table`, where there is one, is a control variate (see `control`) that covers all of these
    images, and `predicted` holds its predictions of the rows. `fit` is that of the first `n_fitted`
    rows.
    """

    stored_types: ClassVar[tuple[type, ...]] = (ridge.Fit, ControlTable)

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
    fit: ridge.Fit | None = None
    n_fitted: int = 0

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
    def full(self) -> ridge.FullOutcomes:
        return ridge.FullOutcomes(self.baseline, self.ends[0])

    @property
    def statistics(self) -> dict[str, float]:
        """Of the rows and of the last fit, see `ridge.Fit`."""
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
        if not len(self.ends) or not self.most or self.facts.n_players == 1:
            return None
        n_known = len(self.rows) + sum(map(len, pending))
        return _drawn(self, self.n_told + len(pending), n_known)

    def tell(self, outcomes: Outcomes) -> None:
        if not len(self.ends):
            self.ends = outcomes.values.copy()
            self.baseline, self.empty = (_as_on_drawn_rows(self, outcomes, end) for end in (0, 1))
        elif not self.most:
            self.law, self.most = _read_pilot(self, outcomes.values[:, self.facts.guard])
            self.rows = _no_rows(self)
        else:
            asked = self.ask() if outcomes.asked is None else outcomes.asked
            self.rows.add(asked)
            self.outcomes.add(outcomes.values)
            if self.table is not None:
                self.predicted.add(self.table.predict(asked, len(self.pool)))
        self.n_told += 1

    def draw_on(self, images: NDArray[np.intp]) -> None:
        """Draw rows on these images alone, for what a control variate leaves of them."""
        assert not len(self.rows), "rows of another law"
        self.pool = self.facts.pool.restricted_to(images)
        # Of single removals nothing is left, and the rest grows with the square of their number.
        self.tilt = 0.5
        self.rows = _no_rows(self)

    def use(self, table: ControlTable) -> None:
        """Use a control variate from now on; it covers all images that rows are drawn on."""
        assert not len(self.rows), "rows without predictions"
        self.table = table

    def fit_rows(self) -> ridge.Fit | None:
        """The fit of all rows so far, solved once for each number of rows; None for too few."""
        if len(self.rows) < ridge.LEAST_ROWS:
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
    run.rows = _no_rows(run)
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
        return drawing.draw_sizes(rng, shares, 0, n_rows)
    shares = drawing.probabilities(run.law, least, run.most, n)
    return drawing.draw_sizes(rng, shares, least, n_rows)


def _read_pilot(run: RegressionRun, values: Floats) -> tuple[drawing.AnyLaw, int]:
    guard, per_row = run.facts.guard, run.plan.images_per_coalition
    none = drawing.Level.of(run.facts.pool, run.empty[:, guard], per_row)
    full, n = float(run.ends[0, guard]), run.facts.n_players
    return drawing.read_pilot(run.plan, values, full=full, none=none, n_players=n)


def _no_rows(run: RegressionRun) -> RegressionRows:
    n = run.facts.n_players
    if run.law not in drawing.BALANCED or n == 1 or not run.most:
        return RegressionRows.none(n)
    weights = drawing.semivalue_sizes(run.plan.least, run.most, n, run.tilt)[1]
    return RegressionRows.none(n, weights)


def _as_on_drawn_rows(run: RegressionRun, outcomes: Outcomes, end: int) -> Floats:
    """The outcomes of every image in one of the ends, as a drawn row would give them."""
    pool, scores = run.facts.pool, outcomes.scores[end]
    if len(scores) != len(pool):  # one image stands for all, see `driving.playing`
        scores = outcomes.values[end, None]
    # On a drawn row an image's score is larger the more rarely it is drawn.
    drawn = (pool.probabilities * len(pool))[:, None]
    by_image: Floats = np.zeros_like(scores)
    np.divide(scores, drawn, out=by_image, where=drawn > 0)
    return by_image


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
        )


def _solved(run: RegressionRun, *, few: bool = False) -> ridge.Fit:
    table = run.table
    return ridge.solve(
        replace(run.facts, pool=run.pool),
        run.rows,
        run.outcomes,
        full=run.full,
        errors_over=run.plan.errors_over,
        entropy=None if few else (*run.entropy, _FOR_TRACES),
        span=(run.plan.least, run.most) if run.law in drawing.BALANCED else None,
        control=None if table is None else ridge.ControlVariate(table, run.predicted, run.pool),
    )


def _statistics(run: RegressionRun) -> dict[str, float]:
    known = {"rows": float(len(run.rows)), "most_removed": float(run.most)}
    fitted = run.fit_rows()
    if fitted is None:
        return known
    return known | {
        "penalty": fitted.penalty,
        "degrees_of_freedom": fitted.degrees,
        "cross_validated_r2": fitted.r2,
        "reliability": fitted.reliability,
    }


def _details(run: RegressionRun) -> dict[str, object]:
    if len(run.rows) < 2 * ridge.LEAST_ROWS:
        return {}
    trace = ridge.halves_trace(run.rows, run.outcomes, run.full)
    before = run.pilot_rows + len(run.ends)
    return {
        "convergence": [[float(before + n), correlation] for n, correlation in trace],
        "curve": ridge.mean_by_size(run.rows, run.outcomes, run.facts.guard),
    }


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
    # At a fixed size, one player absent means that one fewer of the others is.
    scale = _scale(run, fitted.drops) if run.plan.scaled else 1.0
    values = scale * (fitted.shares + fitted.drops)
    return values, scale * np.hypot(fitted.errors, fitted.drop_errors)


def _scale(run: RegressionRun, drops: Floats) -> float:
    """The share of all sizes that a value is a sum over.

    It is that of the sizes drawn, times a factor that makes up for the others: the guard's values
    then add up to its V(all) - V(none), as Shapley's do, within bounds.
    """
    guard, drawn = run.facts.guard, run.most / run.facts.n_players
    grand, paid = run.ends[0, guard] - run.ends[1, guard], drops[guard] * run.most
    ratio = grand / paid if grand > 0 and paid > 0 else 1.0
    return drawn * float(np.clip(ratio, 1.0, _MOST_BEYOND))


def _describe(run: RegressionRun) -> str:
    """What the intervals are, for reports."""
    plan, n = run.plan, run.facts.n_players
    errors = "rows" if plan.errors_over == "rows" else "images (clusters)"
    words = f"sandwich errors over {errors}, normal, for one filter at one look"
    if run.whole_law:
        return words
    if plan.scaled:
        return f"{words}; values cut off behind {run.most} of {n} removals"
    semivalue = f"{words}; a semivalue over {plan.least} to {run.most} of {n} removals"
    fitted = run.fit
    if run.table is None or fitted is None or not len(fitted.coefficients):
        return semivalue
    return (
        f"{semivalue}; beside the rows a table of what {len(run.table)} images lose with each "
        f"filter alone, times {fitted.coefficients[0]:.2f}, which explains "
        f"{100 * fitted.explained[0]:.0f} % of the rows' variance"
    )


def _scores(run: RegressionRun) -> Scores:
    values, errors = run.estimates()
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
        efficient=run.whole_law,
        joint=joint,
        errors_over=plan.errors_over,
    )
