"""The plain recipe, as a baseline: the lowest-ranked filters, as many as look best.

All selection images rank, choose and judge, so what it promises looks better than it is.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, filters, metric, results
from repairkit.core.suite import Array
from repairkit.engine.model_game import ModelGame
from repairkit.jobs.repair.criterion import figures_of
from repairkit.jobs.repair.objective import Objective
from repairkit.jobs.setup.workbench import Bench
from repairkit.metrics.evaluation import difference, falls_beyond, falls_in_words
from repairkit.repairs.cure import ChosenPatch, Story
from repairkit.repairs.propose import Trial, choose, propose_patches


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
        values: of the filters, (n_players,); those below 0 do harm.
        objective: what is to be improved.
        at_most: filters frozen together at the most.
        max_drop: overall accuracy that may be lost.
        max_group_drop: what the accuracy of a group may lose.
        is_over: whether to try no further patch, by the clock.

    Raises:
        TargetNotMetError: no patch improves the objective by more than chance would.
    """
    game = bench.working.game(bench.parts.selection, bench.metrics((objective.metric,)))
    trials = _try_patches(bench, game, values, objective.metric, at_most, is_over)
    best = choose(trials, max_drop=max_drop, sign=objective.sign)
    promise = _gain(bench, game, trials, best, objective, max_group_drop)
    selection = _story(trials, promise, objective.metric, len(bench.parts.selection))
    return ChosenPatch(patch=best.patch, promise=promise, selection=selection)


def _try_patches(
    bench: Bench,
    game: ModelGame,
    values: NDArray[np.float64],
    objective: str,
    at_most: int,
    is_over: Callable[[], bool],
) -> list[Trial]:
    """The model as it is, then the 1, 2, ... most harmful filters frozen, while there is time."""
    suite = bench.parts.selection
    metrics = bench.metrics((objective, bench.accuracy) if bench.n_classes else (objective,))
    patches = [
        filters.Patch(()),
        *propose_patches(values, bench.roster, bench.working.levels, at_most=at_most),
    ]
    trials: list[Trial] = []
    for candidate in patches:
        if trials and is_over():
            break
        outputs = _outputs(bench, game, candidate)
        figures = list(figures_of(metrics, outputs, suite.annotations).values())
        trials.append(Trial(candidate, figures[0], figures[-1] if bench.n_classes else None))
    return trials


def _outputs(bench: Bench, game: ModelGame, candidate: filters.Patch) -> Array:
    """The model's outputs on the game's suite with a patch's filters absent."""
    coalition = np.ones(len(bench.roster), bool)
    coalition[[bench.roster.column(f) for f in candidate.filters]] = False
    return game.outputs(coalition)


def _gain(
    bench: Bench,
    game: ModelGame,
    trials: Sequence[Trial],
    best: Trial,
    objective: Objective,
    max_group_drop: float,
) -> results.Figure:
    """The improvement that the best patch promises on the selection images.

    Raises:
        TargetNotMetError: no patch improves the objective by more than chance would.
    """
    if not len(best.patch):
        raise errors.TargetNotMetError(_refusal(trials, objective, len(bench.parts.selection)))
    gains = difference(
        _outputs(bench, game, trials[0].patch),
        _outputs(bench, game, best.patch),
        bench.parts.selection.annotations,
        bench.metrics((objective.metric,)),
        form=bench.form,
        seed=bench.settings.seed,
    )
    gain = gains[objective.metric]
    if not min(objective.sign * gain.ci_low, objective.sign * gain.ci_high) > 0:  # NaN is no gain
        measure = objective.measure
        low, high = (measure.number(end, signed=True) for end in (gain.ci_low, gain.ci_high))
        raise errors.TargetNotMetError(
            f"no repair: freezing {len(best.patch)} filters changes {objective.metric} on the "
            f"{len(bench.parts.selection)} selection images by {measure.change(gain.value)}, "
            f"which may be chance (95 % interval {low} to {high}); more selection images may tell; "
            "nothing was written"
        )
    beyond = falls_beyond(gains, max_group_drop)
    if beyond:
        raise errors.TargetNotMetError(
            f"no repair: freezing {len(best.patch)} filters looks best on the "
            f"{len(bench.parts.selection)} selection images, but "
            f"{falls_in_words(beyond, max_group_drop)}; nothing was written"
        )
    return gain


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
