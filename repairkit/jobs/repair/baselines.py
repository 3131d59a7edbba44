"""Simpler ways to choose: the chosen repair beside them, and the plain recipe in its place.

The chosen repair stands beside simpler ones that freeze as many filters, or none. Every method is
fitted or ranked on the selection part (norms on the calibration part) and judged once on the test
part, by differences with paired bootstrap intervals. The intervals are each for one method: of many
methods that are worth nothing, one in forty looks better than nothing, so a baseline may only win
against the chosen repair where it was named beforehand.

The plain recipe freezes the lowest-ranked filters, as many as look best. With `--choose plain` it
makes the repair. All selection images rank, choose and judge then, so what it promises looks better
than it is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, filters, results
from repairkit.core.metric import SHARE, Metric
from repairkit.core.outputs import shift_outputs
from repairkit.core.process.stages import stage
from repairkit.core.suite import Array
from repairkit.jobs.backdoor.suspects import Pruning, prunings
from repairkit.jobs.repair.ladder import not_sure
from repairkit.jobs.repair.objective import ChoosingCriterion, Limit, Objective, Wishes, figures_of
from repairkit.jobs.repair.repair_settings import PatchSettings
from repairkit.jobs.score.score_settings import NORMS, ScoreSettings
from repairkit.jobs.score.scored import Scored
from repairkit.jobs.setup.preparing import patched_outputs
from repairkit.jobs.setup.workbench import Bench
from repairkit.metrics.evaluation import difference, evaluate, falls_beyond, falls_in_words
from repairkit.repairs.biases import Biases, fit_shift
from repairkit.repairs.cure import ChosenPatch, FinalFigures, Story, make_patch

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
    rankings = _rankings(asked, objective, score_filters, conductance)
    rows += [_ranked_row(test, ranking, n_frozen) for ranking in rankings]
    rows += [_random_row(test, n_frozen), *_control_row(test, objective, asked.most_drop)]
    if asked.known.backdoor:
        rows += [_pruned_row(test, each) for each in prunings(bench, asked.most_drop)]
    n_looks = sum(bool(row["figures"]) for row in rows)
    return rows, MULTIPLICITY.format(n=n_looks)


def _rankings(
    asked: PatchSettings,
    objective: Objective,
    score_filters: Callable[..., Scored],
    conductance: Callable[[Bench], PlayerValues] | None,
) -> Iterator[Ranking]:
    def scored_by(method: str) -> Callable[[Bench], PlayerValues]:
        return partial(_values_by, method, asked, score_filters)

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
    if conductance is not None:
        # The mean for the true class, images weighted as the objective does.
        yield Ranking(
            "conductance",
            "freezes those through which the least of the true class's score flows (Captum), by "
            f"{plain[0]}'s weights of at most {MOST_IMAGES} selection images",
            conductance,
        )


def _values_by(
    method: str, asked: PatchSettings, score_filters: Callable[..., Scored], bench: Bench
) -> PlayerValues:
    """Values by a method of scoring, the more harmful the lower."""
    (metric,) = bench.metrics(bench.metric_names[:1])
    settings = ScoreSettings(method, budget=asked.score.budget, began=asked.score.began)
    first = score_filters(bench, settings).scores.values[:, 0]
    return np.asarray(first if method in NORMS else metric.measure.sign * first)


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


def _ranked_row(test: TestPart, ranking: Ranking, n_frozen: int) -> Story:
    """The row of a ranking; without figures, and with the reason, where it cannot be had here."""
    bench = ranked = test.bench
    if ranking.metrics and ranking.metrics != bench.settings.metrics:
        ranked = replace(bench, settings=replace(bench.settings, metrics=ranking.metrics))
    try:
        values = ranking.values(ranked)
    except errors.RepairkitError as error:
        note = f"not available here: {error}"
        return {"method": ranking.method, "n_frozen": n_frozen, "note": note, "figures": {}}
    players = np.argsort(np.where(np.isnan(values), np.inf, values), kind="stable")[:n_frozen]
    patch = make_patch(players, bench.roster, bench.working.levels)
    patched = patched_outputs(bench, patch, bench.parts.test)
    return test.row(ranking.method, n_frozen, ranking.note, patched)


def _pruned_row(test: TestPart, pruning: Pruning) -> Story:
    """The row of a pruning, which says itself how many filters it freezes."""
    bench = test.bench
    patch = make_patch(pruning.players, bench.roster, bench.working.levels)
    after = patched_outputs(bench, patch, bench.parts.test) if len(patch) else test.before
    return test.row(pruning.method, len(patch), pruning.note, after)


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


def _control_row(test: TestPart, objective: Objective, max_drop: float) -> Iterator[Story]:
    """The row of the best class biases on the selection part; none for a model without classes.

    Args:
        test: judges the row.
        objective: what the biases are to improve.
        max_drop: accuracy that may be lost.
    """
    bench, form, suite = test.bench, test.bench.form, test.bench.parts.selection
    if form is None or form.kind == "values" or not bench.n_classes:
        return
    outputs, about = bench.working.run_plain(suite), suite.annotations
    criterion = ChoosingCriterion(
        wishes=Wishes(
            objective=objective, limits=(Limit(objective.beside or bench.accuracy, max_drop),)
        ),
        metrics=bench.metrics,
        form=form,
        annotations=about,
        plain=outputs,
    )

    def shifted(outputs: Array, biases: Biases) -> Array:
        return shift_outputs(outputs, form, biases) if biases.any() else outputs

    biases = fit_shift(
        partial(shifted, outputs),
        criterion,
        np.arange(len(suite)),
        form=form,
        n_classes=bench.n_classes,
        labels=about.labels,
    )
    note = _shift_note(biases, bench.n_classes == 2)
    yield test.row("no freezing", 0, note, shifted(test.before, biases))


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


# The plain recipe


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """A patch and what it gives on the selection images; the empty patch is the model as it is.

    `accuracy` is None for a model without classes.
    """

    patch: filters.Patch
    outputs: Array
    objective: float
    accuracy: float | None


def choose_by_ranking(
    bench: Bench,
    asked: PatchSettings,
    objective: Objective,
    values: PlayerValues,
    *,
    is_over: Callable[[], bool],
) -> ChosenPatch:
    """The patch of the lowest values that looks best on the selection images.

    Args:
        bench: the workbench.
        asked: the settings; how many filters, and what accuracy may lose.
        objective: what is to be improved.
        values: of the filters, (n_players,); NaN where a filter was not scored. Only filters of
            values below 0 are candidates.
        is_over: whether to try no further patch, by the clock.

    Raises:
        TargetNotMetError: no patch improves the objective by more than chance would.
    """
    suite, trials = bench.parts.selection, list[Trial]()
    for trial in _trials(bench, values, objective.metric, asked.most_frozen):
        trials.append(trial)
        if is_over():
            break
    plain, best = trials[0], _best(trials, max_drop=asked.most_drop, sign=objective.sign)
    if not len(best.patch):
        raise errors.TargetNotMetError(_refusal(trials, objective, len(suite)))
    changes = difference(
        plain.outputs,
        best.outputs,
        suite.annotations,
        bench.metrics((objective.metric,)),
        form=bench.form,
        seed=bench.settings.seed,
    )
    reason = _why_not(changes, objective, asked.max_group_drop)
    if reason:
        raise errors.TargetNotMetError(
            f"no repair: freezing {len(best.patch)} filters looks best on the {len(suite)} "
            f"selection images, but {reason}; nothing was written"
        )
    promise = changes[objective.metric]
    selection = _story(trials, promise, objective.metric, len(suite))
    return ChosenPatch(patch=best.patch, promise=promise, selection=selection)


def _trials(
    bench: Bench, values: NDArray[np.float64], objective: str, at_most: int
) -> Iterator[Trial]:
    """The model as it is, then the 1, 2, ... most harmful filters frozen, of equals the first."""
    suite = bench.parts.selection
    game = bench.working.game(suite, bench.metrics((objective,)))
    metrics = bench.metrics((objective, bench.accuracy) if bench.n_classes else (objective,))
    ranked = np.argsort(values, kind="stable")
    harmful = ranked[values[ranked] < 0]
    for size in range(min(at_most, len(harmful)) + 1):
        present = np.ones(len(bench.roster), bool)
        present[harmful[:size]] = False
        outputs = game.outputs(present)
        figures = list(figures_of(metrics, outputs, suite.annotations).values())
        yield Trial(
            patch=make_patch(harmful[:size], bench.roster, bench.working.levels),
            outputs=outputs,
            objective=figures[0],
            accuracy=figures[-1] if bench.n_classes else None,
        )


def _best(trials: Sequence[Trial], *, max_drop: float, sign: int) -> Trial:
    """The best objective among the trials that lose at most `max_drop` of accuracy.

    The first trial is the model as it is; of equals, the smallest patch wins.
    """
    baseline = trials[0].accuracy
    # Accuracies are ratios of counts: allow for their rounding.
    allowed = [
        t
        for t in trials
        if t.accuracy is None or baseline is None or baseline - t.accuracy <= max_drop + 1e-12
    ]
    return max(allowed, key=lambda t: (sign * t.objective, -len(t.patch)))


def _why_not(
    changes: Mapping[str, results.Figure], objective: Objective, max_group_drop: float
) -> str:
    """Why nothing can be promised; empty where it can."""
    chance = not_sure(objective, changes)
    if chance:
        return f"{chance}; more selection images may tell"
    beyond = falls_beyond(changes, max_group_drop)
    return falls_in_words(beyond, max_group_drop) if beyond else ""


def _refusal(trials: Sequence[Trial], objective: Objective, n_images: int) -> str:
    plain, best = trials[0], max(trials, key=lambda t: objective.sign * t.objective)
    before, after = (objective.measure.figure(trial.objective) for trial in (plain, best))
    tried = (
        "no filter has a harmful value"
        if len(trials) == 1
        else f"the best of {len(trials) - 1} patches gives {after} with {len(best.patch)} frozen"
        f"{_accuracy(best)}"
    )
    return (
        f"no repair: {objective.metric} is {before} on the {n_images} selection images"
        f"{_accuracy(plain)} as the model is; {tried}; nothing was written"
    )


def _accuracy(trial: Trial) -> str:
    return "" if trial.accuracy is None else f" with accuracy {SHARE.figure(trial.accuracy)}"


def _story(
    trials: Sequence[Trial], promise: results.Figure, objective: str, n_images: int
) -> Story:
    """A report's `selection`, in the form of the joint choice."""
    return {
        "how": "plain",
        "objective": objective,
        "parts": {"choosing": n_images, "confirmation": 0},
        "candidates": max(len(trial.patch) for trial in trials),
        "looks": len(trials),
        "steps": [],
        "trade_off": [
            {
                "n_frozen": len(trial.patch),
                "filters": [f.id for f in trial.patch.filters],
                "kept": True,
                objective: trial.objective,
                **({} if trial.accuracy is None else {"accuracy": trial.accuracy}),
            }
            for trial in trials
        ],
        "confirmation": None,
        "promised": promise.to_json(),
        "declined": None,
    }
