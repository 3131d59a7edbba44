"""Which estimator scores a model, with which settings and budget."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from repairkit.core.game import Game, GameFacts, Round
from repairkit.core.process.stages import stage
from repairkit.core.scores import Budget, Estimator, Scores, Spent
from repairkit.estimators.driving.driver import Estimation
from repairkit.estimators.registry import ESTIMATORS, make_estimator
from repairkit.estimators.walking.tmab import PAPER
from repairkit.jobs.score import spending
from repairkit.jobs.score.score_settings import NORMS, ScoreSettings
from repairkit.jobs.setup.workbench import Bench

# Where no limit is given. Regressions try each coalition on one image, the others on a batch.
EVALUATIONS_PER_FILTER = {
    "tmab": 50,
    "permutation": 50,
    "marginals": 50,
    "regression": 500,
    "auto": 500,
    "repair": 500,
}
_TRUNCATION_SHARE = 0.2
_IN_BATCHES = ("tmab", "permutation", "marginals")
# With a time limit: what of it the first answer may take, and what a row of a regression takes.
_SHARE_OF_TIME = 0.5
_PASSES_OF_A_ROW = 1.5
_FIRST_WALKS = 4


@dataclass(frozen=True)
class SettledMethod:
    """An estimator with its defaults for a game, where it stops, and which method that is."""

    estimator: Estimator
    budget: Budget
    taken: spending.Taken


def check_method(scoring: ScoreSettings) -> None:
    """Refuse an unknown method or setting of repairkit's own before anything is computed.

    Raises:
        SettingsError: the method or a setting is unknown, or a value makes no sense.
    """
    if scoring.method not in NORMS and ":" not in scoring.method:
        make_estimator(
            scoring.method, **({**PAPER, **scoring.options} if scoring.paper else scoring.options)
        )


def settle_estimator(
    scoring: ScoreSettings,
    game: Game,
    bench: Bench,
    *,
    pace: spending.Pace | None = None,
    again: spending.Taken | None = None,
) -> SettledMethod:
    """The estimator with its defaults for this game, and where it stops at the latest.

    Args:
        scoring: what was asked for.
        game: to be played.
        bench: that the game is of.
        pace: what the time limit allows; None without one.
        again: what a run that is resumed had taken.

    Raises:
        SettingsError: the method or a setting is unknown, or a value makes no sense.
        BudgetError: no method can give a score within the limits.
    """
    facts, n_images = game.facts, len(game.facts.pool)
    options = {**PAPER, **scoring.options} if scoring.paper else dict(scoring.options)
    taken = again or _take(scoring, facts, pace, bench.settings.batch_size)
    if taken.method != scoring.method:
        options = _handed_on(options, make_estimator(scoring.method, **options), taken.method)
    options = _fitting(taken.method, {**taken.options, **options}, game, bench, pace)
    estimator = make_estimator(taken.method, **options)
    budget, per_filter = (
        scoring.budget,
        scoring.per_filter or EVALUATIONS_PER_FILTER.get(taken.method),
    )
    if scoring.takes_usual and per_filter is not None:
        usual = spending.default_evaluations(facts, n_images, per_filter)
        budget = Budget(usual, budget.time_limit_seconds)
    return SettledMethod(estimator, budget, taken)


def _handed_on(options: Mapping[str, Any], asked: Estimator, method: str) -> dict[str, Any]:
    """What was asked of one method, as far as the one that is taken in its place knows it."""
    known = {f.name for f in fields(ESTIMATORS[method])}
    fitting = {name: value for name, value in options.items() if name in known}
    side = getattr(asked, "side", None)
    return fitting if side is None or "side" not in known else {"side": side, **fitting}


def _take(
    scoring: ScoreSettings, facts: GameFacts, pace: spending.Pace | None, batch_size: int
) -> spending.Taken:
    n, n_images = facts.n_players, len(facts.pool)
    if pace is not None:
        pace.refuse_hopeless(n, scoring.method, of_sets=facts.of_sets)
    passes = None if pace is None else pace.passes(_SHARE_OF_TIME)
    allowed = spending.Allowance(scoring.budget.max_evaluations, passes)
    if scoring.method == "auto":
        return spending.take_method(facts, n_images, allowed)
    options: dict[str, Any] = {}
    if scoring.method in ("regression", "repair"):
        each = n_images if facts.of_sets else _PASSES_OF_A_ROW
        rows = [scoring.budget.max_evaluations, None if passes is None else int(passes / each)]
        if scoring.takes_usual:
            per_filter = scoring.per_filter or EVALUATIONS_PER_FILTER[scoring.method]
            rows.append(spending.default_evaluations(facts, n_images, per_filter))
        least = min((row for row in rows if row is not None), default=None)
        if least is not None:
            options |= spending.small_rounds(n, least, pilot=scoring.method == "regression")
            if scoring.method == "repair":
                options["rows"] = least
        if facts.of_sets and scoring.method == "repair":
            options["errors_over"] = "rows"  # of one figure, images tell no error
    elif passes is not None and scoring.method in _IN_BATCHES:
        walks = _FIRST_WALKS * (n + 1)
        if not facts.of_sets and passes < walks * batch_size:
            options["batch_size"] = max(passes // walks, 1)
    return spending.Taken(scoring.method, options)


def _fitting(
    method: str, options: Mapping[str, Any], game: Game, bench: Bench, pace: spending.Pace | None
) -> dict[str, Any]:
    """Settings of a method, with defaults that depend on the game."""
    fitting = dict(options)
    if method in ("tmab", "permutation"):
        fitting.setdefault("batch_size", bench.settings.batch_size)
    if method == "tmab" and "truncate_at" not in fitting and bench.n_classes > 1:
        fitting["truncate_at"] = default_truncation(game, bench.n_classes, whole=pace is not None)
    if game.facts.of_sets and method in _IN_BATCHES:
        fitting["batch_size"] = 1  # which stands for all images
    return fitting


def default_truncation(game: Game, n_classes: int, *, whole: bool = False) -> float:
    """v_T: accuracy at which a fifth of what the model has above chance is left.

    It is measured on draws, or on the `whole` part, each image once.
    """
    facts = game.facts
    rng = np.random.default_rng(0)
    images = None if whole or facts.of_sets else facts.pool.draw(rng, 4096)[None]
    full = float(
        game.play(Round(np.ones((1, facts.n_players), bool), images)).values[0, facts.guard]
    )
    chance = 1.0 / n_classes
    return chance + _TRUNCATION_SHARE * max(full - chance, 0.0)


@stage("measuring norms")
def score_norms(method: str, bench: Bench, metric: str) -> Estimation:
    """L2 norms of kernels, or mean absolute activations over the calibration images."""
    if method == "weight-norm":
        by_site = {n: layer.norms() for n, layer in bench.working.survey.layers.items()}
    else:
        measured = bench.working.measure(bench.parts.calibration, magnitude=True)
        by_site = {name: level.astype(np.float64) for name, level in measured.items()}
    values = np.concatenate([by_site[site.name] for site in bench.roster.sites])[:, None]
    n = len(values)
    scores = Scores(
        metrics=(metric,),
        values=values,
        std_errors=np.zeros((n, 1)),
        ci_low=values,
        ci_high=values,
        samples=np.zeros(n, np.int64),
        decided=np.ones(n, bool),
        confidence=1.0,
        interval="none: a norm is no estimate",
        efficient=False,
    )
    return Estimation(
        scores=scores, spent=Spent(), finished=True, reason=f"{method} needs no evaluation"
    )
