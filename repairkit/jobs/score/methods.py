"""Which estimator scores a model, with which budget, and what fits a time limit."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from repairkit.core import errors
from repairkit.core.game import Game, GameFacts, Round
from repairkit.core.process.stages import Deadline, stage
from repairkit.core.scores import Budget, Estimator, Scores, Spent
from repairkit.engine.cones.cone_costs import cone_shares
from repairkit.estimators.driving.driver import Estimation
from repairkit.estimators.linear import fits, regression
from repairkit.estimators.registry import ESTIMATORS, make_estimator
from repairkit.estimators.walking.marginals import Marginals
from repairkit.estimators.walking.permutation import Permutation
from repairkit.estimators.walking.tmab import PAPER, Tmab
from repairkit.formats.run_file import TakenMethod
from repairkit.jobs.score.score_settings import NORMS, ScoreSettings
from repairkit.jobs.setup.workbench import Bench

logger = logging.getLogger(__name__)

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
PASSES_PER_EVALUATION = 40
"""What enumeration may cost, in passes of an image per evaluation allowed to a regression."""
_MOST_ENUMERATED = 16
_EVALUATIONS_PER_FILTER = 500
_WALKS = 50
_LEAST_WALKS = 2
_USUAL_PILOT, _LEAST_PILOT = 512, 12
_USUAL_ROUND, _FIRST_ROUND = 4096, 256
_KNOWN_PER_FILTER = 8
_MOST_IMAGES = 32
_ENDS = 2
_PASSES_PER_ROW = 3
_FEWEST_IMAGES = 16
_SHARE_OF_ENDS = 0.1
_SHARE_OF_WHOLE = 0.5
_MOST_BITS = 60
_PARTS = 4  # how many times as long the whole job takes, where scoring is a part of it


@dataclass(frozen=True)
class Taken:
    """A method, its settings, and a sentence on why it was taken and what its values are."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""

    def to_json(self) -> TakenMethod:
        return {"method": self.method, "options": dict(self.options), "why": self.why}


@dataclass(frozen=True)
class Allowance:
    """The most that may be spent; None means no limit.

    `passes` are passes of one image through the model, in the time that is left.
    """

    evaluations: int | None = None
    passes: int | None = None


def take_method(facts: GameFacts, n_images: int, allowed: Allowance) -> Taken:
    """The method that `auto` takes.

    Args:
        facts: of the game.
        n_images: of the game.
        allowed: the limits that were given.

    Raises:
        BudgetError: the limits are too low for any score; the message names the least.
    """
    if _enumerable(facts, n_images, allowed):
        n_coalitions = 2**facts.n_players
        return Taken("exact", {}, f"all {n_coalitions:,} coalitions fit: values are exact")
    if facts.of_sets:
        return _of_sets(facts, n_images, allowed)
    n, evaluations = facts.n_players, allowed.evaluations
    rows = _least_of(evaluations, _rows_in_time(n, allowed))
    if rows is None or rows >= _ENDS + _USUAL_PILOT + _FIRST_ROUND:
        return Taken("auto")
    few = evaluations is not None and n + 1 <= evaluations < _KNOWN_PER_FILTER * n
    if few and _in_time((n + 1) * n_images, allowed):
        return _left_out(n, f"{evaluations:,} evaluations are few for {n} filters")
    return _small_regression(n, rows, allowed)


def told_of_method(asked: str, taken: Taken, facts: GameFacts) -> list[str]:
    """Notes on the method, beside its name."""
    name = "regression" if taken.method == "auto" else taken.method
    notes = [f"method {asked}: {name} was taken; {taken.why}"] if taken.why else []
    if facts.of_sets:
        notes.append(
            "a metric judges images together: every coalition was tried on all images of the part, "
            "since on fewer it would be another figure; values and intervals are about these images"
        )
    return notes


def told_of_few(asked: str, plan: "SettledMethod", facts: GameFacts) -> list[str]:
    """A warning where a method that was named has too few evaluations, with the number for it.

    `auto` switches to another method instead, and methods that need a fixed number refuse fewer.
    """
    allowed, enough = plan.budget.max_evaluations, enough_evaluations(plan.estimator, facts)
    if asked == "auto" or allowed is None or enough is None or allowed >= enough.evaluations:
        return []
    note = (
        f"method {asked}: {allowed:,} evaluations are few for {facts.n_players} filters; from "
        f"{enough.evaluations:,} on {enough.words} (--method auto takes what fits)"
    )
    logger.warning("%s", note)
    return [note]


@dataclass(frozen=True)
class Enough:
    """From how many evaluations on a method does what `words` say."""

    evaluations: int
    words: str


def enough_evaluations(estimator: Estimator, facts: GameFacts) -> Enough | None:
    """The fewest evaluations that suit a method; None for those that refuse fewer themselves."""
    n = facts.n_players
    images = "all images" if facts.of_sets else f"{getattr(estimator, 'batch_size', 1)} images"
    if isinstance(estimator, Tmab | Permutation):
        walks = max(getattr(estimator, "lanes", 1), 2)
        words = f"every filter is in {walks} whole walks, each on a batch of {images}"
        return Enough(_ENDS + walks * (n + 1), words)
    if isinstance(estimator, Marginals):
        words = f"every filter is in two stars, each on a batch of {images}"
        return Enough(_ENDS + 2 * (n + 1), words)
    if isinstance(estimator, regression.Regression):
        pilot = _USUAL_PILOT if n > regression.FEW_PLAYERS else 0
        parts = "the usual pilot and first round" if pilot else "the usual first round"
        return Enough(_ENDS + pilot + _FIRST_ROUND, f"there is room for {parts}")
    return None


def small_rounds(n_players: int, rows: int, *, pilot: bool) -> dict[str, int]:
    """Smaller pilot and rounds for a regression with few rows; empty if the usual ones fit.

    Args:
        n_players: of the game.
        rows: evaluations allowed.
        pilot: whether the method has a pilot for many players.
    """
    pilot = pilot and n_players > regression.FEW_PLAYERS
    usual = _USUAL_PILOT if pilot else 0
    if rows >= _ENDS + usual + _FIRST_ROUND:
        return {}
    n_pilot = min(max((rows - _ENDS) // 8, _LEAST_PILOT), _USUAL_PILOT) if pilot else 0
    left = max(rows - _ENDS - n_pilot, fits.LEAST_ROWS)
    return {"round_rows": min(left, _FIRST_ROUND)} | ({"pilot_rows": n_pilot} if pilot else {})


def default_evaluations(facts: GameFacts, n_images: int, per_filter: int) -> int:
    """The limit of evaluations if none was given."""
    n = facts.n_players
    if facts.of_sets:
        # As many passes as walks with batches of 128 take, at a few evaluations per filter.
        per_filter = max(min(_WALKS, _WALKS * 128 // n_images), 2 * _KNOWN_PER_FILTER)
    return max(per_filter * n, 4 * (n + 1), _least_rows(n))


def _enumerable(facts: GameFacts, n_images: int, allowed: Allowance) -> bool:
    n = facts.n_players
    if n > _MOST_ENUMERATED:
        return False
    usual = default_evaluations(facts, n_images, _EVALUATIONS_PER_FILTER)
    evaluations = allowed.evaluations
    if evaluations is not None and 2**n > evaluations:
        return False
    if evaluations is None and facts.of_sets:
        return 2**n <= 4 * usual and _in_time(2**n * n_images, allowed)
    most = PASSES_PER_EVALUATION * max(evaluations or 0, usual)
    return (facts.of_sets or 2**n * n_images <= most) and _in_time(2**n * n_images, allowed)


def _in_time(passes: int, allowed: Allowance) -> bool:
    return allowed.passes is None or passes <= allowed.passes


def _rows_in_time(n: int, allowed: Allowance) -> int | None:
    """Rows of a regression that leave time for more rows. A first answer is known to fit."""
    if allowed.passes is None:
        return None
    return max(allowed.passes // _PASSES_PER_ROW, _least_rows(n))


def _least_rows(n: int) -> int:
    return _ENDS + fits.LEAST_ROWS + (_LEAST_PILOT if n > regression.FEW_PLAYERS else 0)


def _of_sets(facts: GameFacts, n_images: int, allowed: Allowance) -> Taken:
    """The method if every coalition is tried on all images: walks need the fewest."""
    n = facts.n_players
    whole = None if allowed.passes is None else max(allowed.passes // n_images, _least_rows(n))
    rows = _least_of(allowed.evaluations, whole)
    if rows is None or rows >= _LEAST_WALKS * (n + 1):
        why = "the metric judges images together, so that every coalition is tried on all of them"
        return Taken("permutation", {"chunk": min(64, n + 1)}, why)
    if rows >= n + 1:
        return _left_out(n, f"{rows:,} evaluations are few for {n} filters")
    return _small_regression(n, rows, allowed)


def _left_out(n: int, because: str) -> Taken:
    why = (
        f"{because}: values are what the model loses with each filter alone (leave-one-out), which "
        f"is not Shapley's; from {_KNOWN_PER_FILTER * n:,} evaluations on it would be"
    )
    return Taken("leave-one-out", {}, why)


def _small_regression(n: int, rows: int, allowed: Allowance) -> Taken:
    least = _least_rows(n)
    if rows < least:
        raise errors.BudgetError(
            f"{rows} evaluations are too few for any score of {n} filters; raise the limit to at "
            f"least {min(least, n + 1)} evaluations"
        )
    options = small_rounds(n, rows, pilot=True)
    if allowed.passes is None:
        share = _EVALUATIONS_PER_FILTER * n // (4 * rows)
        options["images_per_coalition"] = min(max(share, 1), _MOST_IMAGES)
    few = f"only {rows:,} evaluations are allowed"
    if allowed.passes is not None:
        few = f"about {rows:,} coalitions fit a third of the time that is left"
    why = f"{few}: a smaller pilot and smaller rounds, and errors may be wide"
    return Taken("auto", options, why)


def _least_of(*limits: int | None) -> int | None:
    known = [limit for limit in limits if limit is not None]
    return min(known, default=None)


@dataclass(frozen=True)
class Pace:
    """What a time limit allows.

    Attributes:
        deadline: of the command.
        per_pass: seconds that an image takes.
    """

    deadline: Deadline
    per_pass: float

    def passes(self, share: float) -> int:
        """Passes of an image that fit a share of the time that is left."""
        return max(int(share * self.deadline.left / self.per_pass), 0)

    def least_seconds(self, passes: float) -> int:
        """A time limit that is long enough for so many passes, with a margin."""
        parts = 1.0 if self.deadline.whole is None else _PARTS
        return math.ceil(1.25 * (self.deadline.elapsed + parts * passes * self.per_pass) + 1)

    def first_answer(self, n_filters: int, method: str, *, of_sets: bool) -> float:
        """The fewest passes that a first answer takes, on the fewest images."""
        rows = {
            "exact": 2.0 ** min(n_filters, _MOST_BITS),
            "leave-one-out": n_filters + 1.0,
            "permutation": n_filters + 1.0,
            "tmab": 2.0 * (n_filters + 1),
            "marginals": n_filters + 1.0,
            "stars": n_filters + 1.0,
        }
        whole = method in ("exact", "leave-one-out") or of_sets
        each = _FEWEST_IMAGES if whole else 1
        return _ENDS * _FEWEST_IMAGES + each * rows.get(method, 2.0 * fits.LEAST_ROWS)

    def in_words(self, n_filters: int, method: str) -> str:
        """A sentence for the user before anything is scored."""
        needed = self.first_answer(n_filters, method, of_sets=False) * self.per_pass
        return (
            f"{max(self.deadline.left, 0):.0f} of {self.deadline.seconds:g} s are left: a pass of "
            f"an image takes {self.per_pass:.2g} s, a first score by {method} about {needed:.2g} s"
        )

    def refuse_hopeless(self, n_filters: int, method: str, *, of_sets: bool) -> None:
        """Refuse a time limit that is too short for any score.

        Raises:
            BudgetError: it is too short; the message names the least.
        """
        needed = self.first_answer(n_filters, method, of_sets=of_sets)
        if needed * self.per_pass > self.deadline.left:
            raise errors.BudgetError(
                f"the time limit of {self.deadline.limit:g} s is too short: "
                f"{self.deadline.elapsed:.1f} s went into preparations, a pass of an image takes "
                f"{self.per_pass:.3g} s and a first score of {n_filters} filters by {method} "
                f"needs {needed:,.0f} of them; give at least {self.least_seconds(needed)} s"
            )

    def most_images(self, n_filters: int, method: str, *, of_sets: bool) -> int:
        """The most images on which a first answer fits the time limit."""
        rows = {"exact": 2.0 ** min(n_filters, _MOST_BITS), "leave-one-out": n_filters + 1.0}.get(
            method
        )
        most = self.passes(_SHARE_OF_ENDS) // _ENDS
        if rows is not None:
            most = min(most, int(self.passes(_SHARE_OF_WHOLE) / rows))
        elif of_sets:
            fewest = fits.LEAST_ROWS if method in ("regression", "repair") else 2 * (n_filters + 1)
            most = min(most, self.passes(_SHARE_OF_WHOLE) // fewest)
        return max(most, _FEWEST_IMAGES)


@dataclass(frozen=True)
class SettledMethod:
    """An estimator with its defaults for a game, where it stops, and which method that is."""

    estimator: Estimator
    budget: Budget
    taken: Taken


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
    pace: Pace | None = None,
    again: Taken | None = None,
) -> SettledMethod:
    """The estimator with its defaults for this game, and where it stops at the latest.

    Args:
        scoring: what was asked for.
        game: the game.
        bench: the bench of the game.
        pace: what the time limit allows; None without a limit.
        again: the method of the run that is resumed, if any.

    Raises:
        SettingsError: the method or a setting is unknown, or a value makes no sense.
        BudgetError: no method can give a score within the limits.
    """
    facts, n_images = game.facts, len(game.facts.pool)
    options = {**PAPER, **scoring.options} if scoring.paper else dict(scoring.options)
    if again is not None and again.method == scoring.method:
        again = replace(again, method=scoring.method)  # which may come with its code
    taken = again or _take(scoring, facts, pace, bench.settings.batch_size)
    if taken.method != scoring.method:
        options = _handed_on(options, make_estimator(scoring.method, **options), taken.method)
    options = _fitting(taken.method, {**taken.options, **options}, game, bench, pace)
    estimator = make_estimator(taken.method, **options)
    budget, per_filter = (
        scoring.of_ranking,
        scoring.per_filter or EVALUATIONS_PER_FILTER.get(taken.method),
    )
    if scoring.takes_usual and per_filter is not None:
        usual = default_evaluations(facts, n_images, per_filter)
        budget = Budget(usual, budget.time_limit_seconds)
    return SettledMethod(estimator, budget, taken)


def _handed_on(options: Mapping[str, Any], asked: Estimator, method: str) -> dict[str, Any]:
    """The options of the method asked for that the method taken in its place knows."""
    known = {f.name for f in fields(ESTIMATORS[method])}
    fitting = {name: value for name, value in options.items() if name in known}
    side = getattr(asked, "side", None)
    return fitting if side is None or "side" not in known else {"side": side, **fitting}


def _take(scoring: ScoreSettings, facts: GameFacts, pace: Pace | None, batch_size: int) -> Taken:
    n, n_images = facts.n_players, len(facts.pool)
    if pace is not None:
        pace.refuse_hopeless(n, scoring.method, of_sets=facts.of_sets)
    passes = None if pace is None else pace.passes(_SHARE_OF_TIME)
    allowed = Allowance(scoring.of_ranking.max_evaluations, passes)
    if scoring.method == "auto":
        return take_method(facts, n_images, allowed)
    options: dict[str, Any] = {}
    if scoring.method in ("regression", "repair"):
        each = n_images if facts.of_sets else _PASSES_OF_A_ROW
        rows = [scoring.of_ranking.max_evaluations, None if passes is None else int(passes / each)]
        if scoring.takes_usual:
            per_filter = scoring.per_filter or EVALUATIONS_PER_FILTER[scoring.method]
            rows.append(default_evaluations(facts, n_images, per_filter))
        least = min((row for row in rows if row is not None), default=None)
        if least is not None:
            options |= small_rounds(n, least, pilot=scoring.method == "regression")
            if scoring.method == "repair":
                options["rows"] = least
        if facts.of_sets and scoring.method == "repair":
            options["errors_over"] = "rows"  # of one figure, images tell no error
    elif passes is not None and scoring.method in _IN_BATCHES:
        walks = _FIRST_WALKS * (n + 1)
        if not facts.of_sets and passes < walks * batch_size:
            options["batch_size"] = max(passes // walks, 1)
    return Taken(scoring.method, options)


def _fitting(
    method: str, options: Mapping[str, Any], game: Game, bench: Bench, pace: Pace | None
) -> dict[str, Any]:
    """Settings of a method, with defaults that depend on the game."""
    fitting = dict(options)
    if method in ("tmab", "permutation"):
        fitting.setdefault("batch_size", bench.settings.batch_size)
    if method == "tmab" and "truncate_at" not in fitting and bench.n_classes > 1:
        fitting["truncate_at"] = default_truncation(game, bench.n_classes, whole=pace is not None)
    if game.facts.of_sets and method in _IN_BATCHES:
        fitting["batch_size"] = 1  # which stands for all images
    if method == "stars" and "costs" not in fitting:
        shares = cone_shares(bench.working, bench.parts.selection)
        if shares is not None:
            sites = bench.roster.sites
            fitting["costs"] = tuple((site.n_channels, shares[site.name]) for site in sites)
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
