"""The plain recipe, as a baseline: the lowest-ranked filters, as many as look best.

All selection images rank, choose and judge, so what it promises is flattered by the choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.arrays import Array
from repairkit.core.errors import TargetNotMetError
from repairkit.core.metric import SHARE, Metric
from repairkit.core.patch import Figure, Patch
from repairkit.core.suite import Suite
from repairkit.engine.game import ModelGame
from repairkit.jobs.repair.objective import Objective
from repairkit.jobs.repair.patch_time import PatchTime
from repairkit.jobs.repair.repair_settings import PatchSettings
from repairkit.jobs.setup.bench import Bench
from repairkit.metrics import difference, falls_beyond, told_beyond
from repairkit.repairs import Trial, choose, propose_patches


def try_patches(
    bench: Bench,
    game: ModelGame,
    values: NDArray[np.float64],
    objective: str,
    at_most: int,
    *,
    time: PatchTime | None = None,
) -> list[Trial]:
    """The model as it is, then the 1, 2, ... most harmful filters frozen, while there is time."""
    suite = bench.parts.selection
    metrics = bench.metrics((objective, bench.accuracy) if bench.n_classes else (objective,))
    patches = [
        Patch(()),
        *propose_patches(values, bench.roster, bench.working.levels, at_most=at_most),
    ]
    trials: list[Trial] = []
    for candidate in patches:
        if trials and time is not None and time.is_over(1):
            break
        outputs = _outputs(bench, game, candidate)
        figures = [_figure(m, outputs, suite) for m in metrics]
        trials.append(Trial(candidate, figures[0], figures[1] if bench.n_classes else None))
    return trials


def _outputs(bench: Bench, game: ModelGame, candidate: Patch) -> Array:
    """The model's outputs on the game's suite with a patch's filters absent."""
    coalition = np.ones(len(bench.roster), bool)
    coalition[[bench.roster.column(f) for f in candidate.filters]] = False
    return game.outputs(coalition)


def _figure(metric: Metric, outputs: Array, suite: Suite) -> float:
    scores = metric.score(outputs, suite.annotations)
    if not metric.per_image:
        return float(scores)
    return float(scores @ metric.weights(suite.annotations))


def choose_patch(
    bench: Bench, game: ModelGame, trials: Sequence[Trial], aim: Objective, how: PatchSettings
) -> tuple[Patch, Figure]:
    """The best patch on the selection images, and the improvement that it promises there.

    Raises:
        TargetNotMetError: no patch improves the objective by more than chance would.
    """
    objective = aim.metric
    best, plain = choose(trials, max_drop=how.max_drop, sign=aim.sign), trials[0]
    if not len(best.patch):
        raise TargetNotMetError(_refusal(trials, aim, len(bench.parts.selection)))
    gains = difference(
        _outputs(bench, game, plain.patch),
        _outputs(bench, game, best.patch),
        bench.parts.selection.annotations,
        bench.metrics((objective,)),
        form=bench.form,
        seed=bench.settings.seed,
    )
    gain = gains[objective]
    if not min(aim.sign * gain.ci_low, aim.sign * gain.ci_high) > 0:  # NaN is no gain
        raise TargetNotMetError(
            f"no repair: freezing {len(best.patch)} filters changes {objective} on the "
            f"{len(bench.parts.selection)} selection images by {aim.measure.change(gain.value)}, "
            f"which may be chance (95 % interval {aim.measure.number(gain.ci_low, signed=True)} to "
            f"{aim.measure.number(gain.ci_high, signed=True)}); more selection images may tell; "
            "nothing was written"
        )
    beyond = falls_beyond(gains, how.max_group_drop)
    if beyond:
        raise TargetNotMetError(
            f"no repair: freezing {len(best.patch)} filters looks best on the "
            f"{len(bench.parts.selection)} selection images, but "
            f"{told_beyond(beyond, how.max_group_drop)}; nothing was written"
        )
    return best.patch, gain


def _refusal(trials: Sequence[Trial], aim: Objective, n_images: int) -> str:
    plain, best = trials[0], max(trials, key=lambda t: aim.sign * t.objective)
    before, after = (aim.measure.figure(trial.objective) for trial in (plain, best))
    tried = (
        "no filter has a harmful value"
        if len(trials) == 1
        else f"the best of {len(trials) - 1} patches gives {after} with {len(best.patch)} frozen"
        f"{_accuracy(best)}"
    )
    return (
        f"no repair: {aim.metric} is {before} on the {n_images} selection images{_accuracy(plain)} "
        f"as the model is; {tried}; nothing was written"
    )


def _accuracy(trial: Trial) -> str:
    return "" if trial.accuracy is None else f" with accuracy {SHARE.figure(trial.accuracy)}"


def told_plainly(
    trials: Sequence[Trial], promise: Figure, objective: str, n_images: int
) -> dict[str, Any]:
    """A report's `selection`, as the joint choice tells it."""
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
