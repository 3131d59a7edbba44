"""Score a model's filters into a run folder."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from repairkit.core.game import Round
from repairkit.core.metric import Metric
from repairkit.core.scores import Budget, Estimator, Run, Scores, Spent
from repairkit.engine.game import ModelGame
from repairkit.engine.runtime import session_device
from repairkit.estimators import (
    ESTIMATORS,
    CheckpointStore,
    Estimation,
    estimate,
    make_estimator,
    undecided,
)
from repairkit.workflows.bench import Bench, prepare
from repairkit.workflows.faults import judging_the_model
from repairkit.workflows.norms import NORMS, score_norms
from repairkit.workflows.run_document import opening, outcome, plain
from repairkit.workflows.run_folder import RunFolder, finite_rows, scores_table
from repairkit.workflows.settings import Settings
from repairkit.workflows.subject import Subject

logger = logging.getLogger(__name__)

METHODS = (*ESTIMATORS, *NORMS)
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
_PROGRESS_SECONDS = 0.3


@dataclass(frozen=True)
class Progress:
    """How far a scoring is.

    `seconds_left` and `evaluations_left` are None without a budget, `n_undecided` where telling
    would take long.
    """

    n_filters: int
    n_undecided: int | None
    spent: Spent
    evaluations_per_second: float
    evaluations_left: int | None
    seconds_left: float | None


@dataclass(frozen=True)
class ScoreSettings:
    """How to score.

    Attributes:
        method: a name of `METHODS`, or `module:object`.
        options: settings of the estimator that were given explicitly.
        budget: where to stop at the latest; `EVALUATIONS_PER_FILTER` where neither limit is given.
    """

    method: str = "tmab"
    options: Mapping[str, Any] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True)
class Scored:
    """A finished (or interrupted and saved) scoring."""

    scores: Scores
    bench: Bench
    document: dict[str, Any]
    folder: Path | None

    def table(self) -> list[dict[str, Any]]:
        return scores_table(self.scores, self.bench.roster)

    def to_json(self) -> dict[str, Any]:
        return {**self.document, "scores": finite_rows(self.table())}


@judging_the_model
def score(
    subject: Subject,
    settings: Settings,
    how: ScoreSettings,
    *,
    out: Path | None = None,
    resume: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Scored:
    """Estimate the value of every filter.

    Args:
        subject: the model.
        settings: images, metrics, sites.
        how: method and budget.
        out: the run folder; nothing is written if None.
        resume: go on with the unfinished run in `out`.
        on_progress: called now and then.

    Raises:
        RepairkitError: anything that the user can mend.
        KeyboardInterrupt: after the run was saved.
    """
    bench = prepare(subject, settings)
    return score_bench(bench, how, out=out, resume=resume, on_progress=on_progress)


def score_bench(
    bench: Bench,
    how: ScoreSettings,
    *,
    out: Path | None = None,
    resume: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Scored:
    """See `score`, on a workbench that is ready."""
    metrics = bench.metrics(bench.settings.metrics)
    document = opening(bench, how.method, how.options, how.budget)
    folder = None if out is None else RunFolder(out)
    if folder is not None:
        folder.claim(document["key"], bench.subject.file.digest, resume=resume)
    if how.method in NORMS:
        estimation = score_norms(how.method, bench, metrics[0].name)
        scores = estimation.scores
    else:
        estimation = _play(bench, how, metrics, document, folder, on_progress)
        scores = _first_metrics(estimation.scores, len(metrics))
    document |= outcome(estimation, scores)
    if folder is not None:
        folder.write_scores(scores, bench.roster)
        folder.write(document)
    return Scored(scores, bench, document, out)


def _play(
    bench: Bench,
    how: ScoreSettings,
    metrics: tuple[Metric, ...],
    document: dict[str, Any],
    folder: RunFolder | None,
    on_progress: Callable[[Progress], None] | None,
) -> Estimation:
    """Play the game; the folder is first written to once there is something to keep."""
    game = bench.game(bench.parts.selection, metrics, guard=_guard(bench, metrics))
    document["metrics"] = _ends(game, len(metrics))
    estimator, budget = _estimator(how, game, bench)
    document["settings"]["estimator"] = plain(estimator)
    document["settings"]["budget"] = dataclasses.asdict(budget)
    document["engine"] = game.path
    document["device"] = session_device(bench.runner.session)
    report = _reporter(on_progress, budget, len(bench.roster))
    unwritten = [folder] if folder is not None else []

    def on_round(run: Run, spent: Spent) -> None:
        while unwritten:
            unwritten.pop().write(document)
        if report is not None:
            report(run, spent)

    if folder is not None:
        folder.check_values(document["metrics"])
    return estimate(
        game,
        estimator,
        budget=budget,
        seed=bench.settings.seed,
        on_round=on_round,
        checkpoint=None if folder is None else CheckpointStore(folder.checkpoint),
    )


def _guard(bench: Bench, metrics: tuple[Metric, ...]) -> Metric | None:
    """Accuracy, on which walks are truncated, where the model has classes and none is asked for."""
    if metrics[0].name == "accuracy" or bench.n_classes == 0:
        return None
    return bench.metrics(("accuracy",))[0]


def _ends(game: ModelGame, n_metrics: int) -> dict[str, dict[str, float]]:
    """V(all) and V(none) of every metric, on all selection images."""
    n = game.facts.n_players
    values = game.play(Round(np.stack([np.ones(n, bool), np.zeros(n, bool)]))).values
    return {
        name: {"all": float(values[0, i]), "none": float(values[1, i])}
        for i, name in enumerate(game.facts.metrics[:n_metrics])
    }


def _estimator(how: ScoreSettings, game: ModelGame, bench: Bench) -> tuple[Estimator, Budget]:
    options = dict(how.options)
    if how.method in ("tmab", "permutation"):
        options.setdefault("batch_size", bench.settings.batch_size)
    if how.method == "tmab" and "truncate_at" not in options and bench.n_classes > 1:
        options["truncate_at"] = default_truncation(game, bench.n_classes)
    budget, per_filter = how.budget, EVALUATIONS_PER_FILTER.get(how.method)
    if budget == Budget() and per_filter is not None:
        n = game.facts.n_players
        budget = Budget(max(per_filter * n, 4 * (n + 1)))
    return make_estimator(how.method, **options), budget


def default_truncation(game: ModelGame, n_classes: int) -> float:
    """v_T: accuracy at which a fifth of what the model has above chance is left."""
    facts = game.facts
    rng = np.random.default_rng(0)
    images = facts.pool.draw(rng, 4096)[None]
    full = float(
        game.play(Round(np.ones((1, facts.n_players), bool), images)).values[0, facts.guard]
    )
    chance = 1.0 / n_classes
    return chance + _TRUNCATION_SHARE * max(full - chance, 0.0)


def _reporter(
    on_progress: Callable[[Progress], None] | None, budget: Budget, n_filters: int
) -> Callable[[Run, Spent], None] | None:
    """Tells `on_progress` now and then, since reading a run costs time."""
    if on_progress is None:
        return None
    due = [0.0]
    first: list[tuple[float, int]] = []

    def report(run: Run, spent: Spent) -> None:
        now = time.monotonic()
        if not first:
            first.append((now, spent.evaluations))
        if now < due[0]:
            return
        rate = (spent.evaluations - first[0][1]) / max(now - first[0][0], 1e-9)
        left, seconds = None, None
        if budget.max_evaluations is not None:
            left = max(budget.max_evaluations - spent.evaluations, 0)
            seconds = left / rate if rate > 0 else None
        if budget.time_limit_seconds is not None:
            remaining = max(budget.time_limit_seconds - spent.seconds, 0.0)
            seconds = remaining if seconds is None else min(seconds, remaining)
        on_progress(Progress(n_filters, undecided(run), spent, rate, left, seconds))
        due[0] = time.monotonic() + _PROGRESS_SECONDS

    return report


def _first_metrics(scores: Scores, n_metrics: int) -> Scores:
    """Without the guard, which nobody asked for."""
    return dataclasses.replace(
        scores,
        metrics=scores.metrics[:n_metrics],
        values=scores.values[:, :n_metrics],
        std_errors=scores.std_errors[:, :n_metrics],
        ci_low=scores.ci_low[:, :n_metrics],
        ci_high=scores.ci_high[:, :n_metrics],
    )
