"""The chosen repair beside simpler ones that freeze as many filters, or none.

Every method is fitted or ranked on the selection part (norms on the calibration part) and judged
once on the test part, by differences with paired bootstrap intervals. The intervals are each for
one method: of many methods that are worth nothing, one in forty looks better than nothing, so a
baseline may only win against the chosen repair where it was named beforehand.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, results
from repairkit.core.metric import Metric
from repairkit.core.outputs import OutputForm, shift_outputs
from repairkit.core.process.stages import stage
from repairkit.core.suite import Array
from repairkit.jobs.repair.objective import ChoosingCriterion, Limit, Objective, Wishes, figures_of
from repairkit.jobs.repair.repair_settings import PatchSettings
from repairkit.jobs.score.score_settings import NORMS, ScoreSettings
from repairkit.jobs.score.scored import Scored
from repairkit.jobs.setup.preparing import patched_outputs
from repairkit.jobs.setup.workbench import Bench
from repairkit.metrics.evaluation import difference, evaluate
from repairkit.repairs.biases import Biases, fit_shift
from repairkit.repairs.cure import FinalFigures, Story, make_patch

RANDOM_DRAWS = 10
MULTIPLICITY = (
    "baselines: the test part was looked at once per method, {n} times in all (random draws count "
    "as one), and each interval is for its method alone: the best of them looks better than it is"
)
MOST_IMAGES = 512  # of the selection part, by which conductance is measured

PlayerValues = NDArray[np.float64]
"""Shape (n_players,)."""


@dataclass(frozen=True)
class Ranking:
    """A way to rank filters; those with the lowest values are frozen.

    Attributes:
        method: as shown.
        note: what it does, in words.
        values: of all filters on a workbench whose settings name `metrics`; NaN where unknown.
        metrics: whose values are estimated; empty where the method asks for none.
    """

    method: str
    note: str
    values: Callable[[Bench], PlayerValues]
    metrics: tuple[str, ...] = ()


@stage("judging simpler cures")
def with_baselines(
    bench: Bench,
    asked: PatchSettings,
    objective: Objective,
    figures: FinalFigures,
    *,
    n_frozen: int,
    score_filters: Callable[..., Scored],
    conductance: Callable[[Bench], PlayerValues] | None,
) -> tuple[list[Story], str]:
    """The rows of the report's `baselines`, the chosen repair first, and a note of how many looks.

    Args:
        bench: the workbench of the repair.
        asked: its settings.
        objective: what it is for.
        figures: of the repair.
        n_frozen: how many filters it freezes.
        score_filters: scores filters by other methods.
        conductance: of every filter; None without the framework's model.
    """
    before, after = figures.outputs
    test = TestPart(bench, before, bench.metrics(tuple(figures.before.metrics)))
    rows = [test.row("chosen repair", n_frozen, "what this report is about", after)]
    rankings = list(_rankings(asked, objective, score_filters))
    if conductance is not None:
        rankings.append(_conductance_ranking(conductance, objective))
    for ranking in rankings:
        ranked = bench
        if ranking.metrics and ranking.metrics != bench.settings.metrics:
            ranked = replace(bench, settings=replace(bench.settings, metrics=ranking.metrics))
        try:
            values = ranking.values(ranked)
        except errors.RepairkitError as error:
            rows.append(_failed(ranking.method, n_frozen, str(error)))
            continue
        players = np.argsort(np.where(np.isnan(values), np.inf, values), kind="stable")[:n_frozen]
        patch = make_patch(players, bench.roster, bench.working.levels)
        patched = patched_outputs(bench, patch, bench.parts.test)
        rows.append(test.row(ranking.method, n_frozen, ranking.note, patched))
    rows.append(_random_row(test, n_frozen))
    control = fit_control(bench, objective, asked.max_drop)
    if control is not None:
        rows.append(test.row("no freezing", 0, control.note, control.outputs(before)))
    n_looks = sum(bool(row["figures"]) for row in rows)
    return rows, MULTIPLICITY.format(n=n_looks)


def _rankings(
    asked: PatchSettings, objective: Objective, score_filters: Callable[..., Scored]
) -> Iterator[Ranking]:
    budget, began = asked.score.budget, asked.score.began

    def scored_by(method: str) -> Callable[[Bench], PlayerValues]:
        settings = ScoreSettings(method, budget=budget, began=began)

        def values(bench: Bench) -> PlayerValues:
            (metric,) = bench.metrics(bench.metric_names[:1])
            scored = score_filters(bench, settings)
            first = scored.scores.values[:, 0]
            return np.asarray(first if method in NORMS else metric.measure.sign * first)

        return values

    plain, smooth = objective.plain_values, objective.values[:1]
    yield Ranking(
        "plain recipe",
        f"freezes the lowest by Shapley value for {plain[0]}",
        scored_by("auto"),
        plain,
    )
    yield Ranking(
        "leave-one-out",
        f"freezes those whose absence alone does {smooth[0]} the most good",
        scored_by("leave-one-out"),
        smooth,
    )
    yield Ranking(
        "weight norm", "freezes those with the smallest kernels", scored_by("weight-norm")
    )
    yield Ranking(
        "activation norm", "freezes those that yield the least", scored_by("activation-norm")
    )


def _conductance_ranking(
    conductance: Callable[[Bench], PlayerValues], objective: Objective
) -> Ranking:
    """By the mean conductance for the true class, images weighted as the objective does."""
    return Ranking(
        "conductance",
        "freezes those through which the least of the true class's score flows (Captum), by "
        f"{objective.plain_values[0]}'s weights of at most {MOST_IMAGES} selection images",
        conductance,
    )


@dataclass(frozen=True, eq=False)
class TestPart:
    """Judges outputs for the test images against those of the model as it is."""

    bench: Bench
    before: Array
    metrics: tuple[Metric, ...]

    @cached_property
    def plain(self) -> Mapping[str, results.Figure]:
        """The figures of the model as it is."""
        return self._evaluate(self.before)

    @property
    def _common(self) -> dict[str, Any]:
        return {"form": self.bench.form, "seed": self.bench.settings.seed}

    def row(self, method: str, n_frozen: int, note: str, after: Array) -> Story:
        """A row with the figures of a model that answers so."""
        about = self.bench.parts.test.annotations
        change = difference(self.before, after, about, self.metrics, **self._common)
        reached = self._evaluate(after)
        figures = _figures(self.plain, reached, change)
        return {"method": method, "n_frozen": n_frozen, "note": note, "figures": figures}

    def _evaluate(self, outputs: Array) -> Mapping[str, results.Figure]:
        suite = self.bench.parts.test
        return evaluate(
            outputs, suite.annotations, self.metrics, suite=suite.name, **self._common
        ).metrics


def _random_row(test: TestPart, n_frozen: int) -> Story:
    """Means and ranges over draws of filters."""
    bench = test.bench
    rng = np.random.default_rng([bench.settings.seed, RANDOM_DRAWS])
    about = bench.parts.test.annotations
    drawn = []
    for _ in range(RANDOM_DRAWS):
        players = rng.choice(len(bench.roster), n_frozen, replace=False).astype(np.intp)
        after = patched_outputs(
            bench, make_patch(players, bench.roster, bench.working.levels), bench.parts.test
        )
        drawn.append(figures_of(test.metrics, after, about))
    plain = test.plain
    reached, change = {}, {}
    for name, figure in plain.items():
        values = np.array([figures[name] for figures in drawn])
        reached[name] = results.Figure(
            float(values.mean()), float(values.min()), float(values.max())
        )
        moved = values - figure.value
        change[name] = results.Figure(float(moved.mean()), float(moved.min()), float(moved.max()))
    note = f"mean and range of {RANDOM_DRAWS} draws of filters, no interval"
    figures = _figures(plain, reached, change)
    return {"method": "random", "n_frozen": n_frozen, "note": note, "figures": figures}


def _figures(
    before: Mapping[str, results.Figure],
    after: Mapping[str, results.Figure],
    change: Mapping[str, results.Figure],
) -> Story:
    return {
        name: {
            "before": figure.to_json(),
            "after": after[name].to_json(),
            "difference": change[name].to_json(),
        }
        for name, figure in before.items()
    }


def _failed(method: str, n_frozen: int, reason: str) -> Story:
    """A method that cannot be had here, with the reason; it has no figures."""
    note = f"not available here: {reason}"
    return {"method": method, "n_frozen": n_frozen, "note": note, "figures": {}}


@dataclass(frozen=True)
class BiasControl:
    """Class biases that act on the outputs, and what they are in words."""

    form: OutputForm
    biases: Biases
    note: str

    def outputs(self, outputs: Array) -> Array:
        """What the model would answer."""
        return shift_outputs(outputs, self.form, self.biases) if self.biases.any() else outputs


def fit_control(bench: Bench, objective: Objective, max_drop: float) -> BiasControl | None:
    """The best class biases on the selection part within the accuracy that may be lost.

    None for a model without classes.
    """
    form, suite = bench.form, bench.parts.selection
    if form is None or form.kind == "values" or not bench.n_classes:
        return None
    outputs, about = bench.working.run_plain(suite), suite.annotations
    criterion = ChoosingCriterion(
        wishes=Wishes(objective=objective, limits=(Limit(bench.accuracy, max_drop),)),
        metrics=bench.metrics,
        form=form,
        annotations=about,
        plain=outputs,
    )

    def shifted(biases: Biases) -> Array:
        return shift_outputs(outputs, form, biases) if biases.any() else outputs

    everyone = np.arange(len(suite))
    biases = fit_shift(
        shifted,
        criterion,
        everyone,
        form=form,
        n_classes=bench.n_classes,
        labels=about.labels,
    )
    return BiasControl(form, biases, _shift_note(biases, bench.n_classes == 2))


def _shift_note(biases: Biases, binary: bool) -> str:
    if not biases.any():
        return "freezes nothing; no shift was better than none on the selection part"
    if binary:
        return (
            f"freezes nothing: shifts the log-odds of class 1 by {biases[1]:+.3g}, fitted on the "
            "selection part"
        )
    return (
        f"freezes nothing: biases on {np.count_nonzero(biases)} classes, fitted on the selection "
        "part"
    )
