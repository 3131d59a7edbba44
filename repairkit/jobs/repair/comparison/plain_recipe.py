"""The plain recipe, as a baseline: the lowest-ranked filters, as many as look best.

All selection images rank, choose and judge, so what it promises looks better than it is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, filters, metric, results
from repairkit.core.suite import Array
from repairkit.jobs.repair.ladder import not_sure
from repairkit.jobs.repair.objective import Objective, figures_of
from repairkit.jobs.setup.workbench import Bench
from repairkit.metrics.evaluation import difference, falls_beyond, falls_in_words
from repairkit.repairs.cure import ChosenPatch, Story, make_patch


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
    values: NDArray[np.float64],
    objective: Objective,
    *,
    at_most: int,
    max_drop: float,
    max_group_drop: float,
    is_over: Callable[[], bool],
) -> ChosenPatch:
    """The patch of the lowest values that looks best on the selection images.

    Args:
        bench: the workbench.
        values: of the filters, (n_players,); NaN where a filter was not scored. Only filters of
            values below 0 are candidates.
        objective: what is to be improved.
        at_most: filters frozen together at the most.
        max_drop: overall accuracy that may be lost, a share of all images, in [0, 1].
        max_group_drop: what the accuracy of a group may lose.
        is_over: whether to try no further patch, by the clock.

    Raises:
        TargetNotMetError: no patch improves the objective by more than chance would.
    """
    suite, trials = bench.parts.selection, list[Trial]()
    for trial in _trials(bench, values, objective.metric, at_most):
        trials.append(trial)
        if is_over():
            break
    plain, best = trials[0], _best(trials, max_drop=max_drop, sign=objective.sign)
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
    reason = _why_not(changes, objective, max_group_drop)
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
    return "" if trial.accuracy is None else f" with accuracy {metric.SHARE.figure(trial.accuracy)}"


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
