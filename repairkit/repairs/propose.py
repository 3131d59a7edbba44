"""Turn scores into patches: the most harmful filters first, one more in each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from repairkit.core.filters import FilterMeans, Roster
from repairkit.core.patch import FrozenFilter, Patch, constant_of


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
