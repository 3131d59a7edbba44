"""What a game is judged by beside the metrics that were asked for, and its two ends.

A guard is the accuracy that tells where a model collapses. An auxiliary metric tells of the metric
that was asked for: soft hits, which say how clearly the true class wins, are known with less noise
than hits, and a filter that changes the one changes the other.
"""

from collections.abc import Sequence

import numpy as np

from repairkit.core.game import Game, GameFacts, Outcomes, Round
from repairkit.core.metric import Metric
from repairkit.core.process.stages import stage
from repairkit.estimators.linear.regression import FEW_PLAYERS
from repairkit.formats.run_file import RunDocument
from repairkit.formats.score_size import Ends
from repairkit.jobs.setup.workbench import Bench
from repairkit.metrics.definition import auxiliary_of

_OF_ROWS = ("auto", "regression")


def guard(bench: Bench, metrics: Sequence[Metric]) -> Metric | None:
    """Accuracy, which truncates walks, if the model has classes and no accuracy is scored."""
    if metrics[0].name == bench.accuracy or bench.n_classes == 0:
        return None
    return bench.metrics((bench.accuracy,))[0]


def auxiliaries(
    metrics: Sequence[Metric], method: str, n_filters: int, earlier: RunDocument | None
) -> tuple[Metric | None, ...] | None:
    """Soft hits beside hits, for methods that solve rows of many filters; None for others.

    Args:
        metrics: that were asked for.
        method: that was asked for.
        n_filters: of the game.
        earlier: `run.json` of the run that is resumed, which goes on as it began.
    """
    begun = earlier is None or "auxiliary" in earlier
    if method not in _OF_ROWS or n_filters <= FEW_PLAYERS or not begun:
        return None
    if not all(metric.per_image for metric in metrics):
        return None
    return tuple(map(auxiliary_of, metrics))


@stage("playing with all filters and with none")
def play_ends(game: Game) -> tuple[Round, Outcomes]:
    """The coalitions with all filters and with none, on all images."""
    n = game.facts.n_players
    round = Round(np.stack([np.ones(n, bool), np.zeros(n, bool)]))
    return round, game.play(round)


def ends_of(outcomes: Outcomes, facts: GameFacts, n_metrics: int) -> dict[str, Ends]:
    """V(all) and V(none) of the first metrics, on all images of the game."""
    values = outcomes.values
    return {
        name: {"all": float(values[0, i]), "none": float(values[1, i])}
        for i, name in enumerate(facts.metrics[:n_metrics])
    }
