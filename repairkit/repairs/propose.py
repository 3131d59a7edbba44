"""Patches of the most harmful filters by their values alone, and the best of those tried."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.core.filters import FilterMeans, FrozenFilter, Patch, Roster, constant_of


def make_patch(players: NDArray[np.intp], roster: Roster, levels: FilterMeans) -> Patch:
    """A patch that freezes players at their levels, in the order given."""
    filters = [roster.filters[player] for player in players.tolist()]
    return Patch(tuple(FrozenFilter(f, constant_of(levels[f.site][f.channel])) for f in filters))


def propose_patches(
    values: NDArray[np.float64], roster: Roster, levels: FilterMeans, *, at_most: int
) -> Iterator[Patch]:
    """Patches of 1, 2, ... filters of the most negative values.

    Args:
        values: shape (n_players,); NaN where a filter was not scored. Only negative values are
            candidates.
        roster: the filters.
        levels: what each yields when absent.
        at_most: the largest number of filters frozen together.
    """
    ranked = np.argsort(values, kind="stable")
    harmful = ranked[values[ranked] < 0]
    for size in range(1, min(at_most, len(harmful)) + 1):
        yield make_patch(harmful[:size], roster, levels)


@dataclass(frozen=True)
class Trial:
    """A patch and what it gives on the selection images; the empty patch is the model as it is.

    `accuracy` is None for a model without classes.
    """

    patch: Patch
    objective: float
    accuracy: float | None


def choose(trials: Sequence[Trial], *, max_drop: float, sign: int = 1) -> Trial:
    """The best objective among the trials that lose at most `max_drop` of accuracy.

    Args:
        trials: the first is the model as it is; of equals, the earlier (smaller) wins.
        max_drop: a share of all images, in [0, 1].
        sign: 1 where more of the objective is better, else -1.
    """
    baseline = trials[0]
    # Accuracies are ratios of counts: allow for their rounding.
    allowed = [
        t
        for t in trials
        if t.accuracy is None
        or baseline.accuracy is None
        or baseline.accuracy - t.accuracy <= max_drop + 1e-12
    ]
    return max(allowed, key=lambda t: (sign * t.objective, -len(t.patch)))
