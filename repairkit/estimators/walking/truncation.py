"""What walks tell of truncation: how V falls as players leave, and what a cut hides.

The share of V(all) - V(none) that is left at the cut goes to nobody: the sum of the values falls
short by E[V at the cut] - V(none) on average over all walks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.game import GameFacts
from repairkit.estimators.walking.walks import Walk

Floats = NDArray[np.float64]

_SHOWN = 101


@dataclass(kw_only=True)
class Curve:
    """Sums over the walks that count.

    `counts` (n_players + 1,) walks with a value after so many removals; `sums` (n_players + 1, 2)
    those of the first metric and of the guard. `n_cut` of `n_walks` were cut, after `sum_of_cuts`
    removals together; `at_cuts` (n_metrics,) sums V there.
    """

    counts: NDArray[np.int64]
    sums: Floats
    at_cuts: Floats
    n_walks: int = 0
    n_cut: int = 0
    sum_of_cuts: int = 0

    @classmethod
    def empty(cls, n_players: int, n_metrics: int) -> Curve:
        return cls(
            counts=np.zeros(n_players + 1, np.int64),
            sums=np.zeros((n_players + 1, 2)),
            at_cuts=np.zeros(n_metrics),
        )

    def add(self, walk: Walk, guard: int) -> None:
        """A walk that is done."""
        at, values = walk.prefixes[: walk.n_known], walk.values[: walk.n_known]
        self.counts[at] += 1
        self.sums[at] += values[:, [0, guard]]
        self.n_walks += 1
        if walk.truncated:
            self.n_cut += 1
            self.sum_of_cuts += walk.cut
            self.at_cuts += values[-1]

    @property
    def mean_cut(self) -> float:
        """Removals at the cut, on average over the walks that were cut; NaN without any."""
        return self.sum_of_cuts / self.n_cut if self.n_cut else float("nan")

    @property
    def mean_value_at_cut(self) -> Floats:
        """V at the cut per metric, (n_metrics,), over the walks that were cut; NaN without any."""
        mean: Floats = self.at_cuts / self.n_cut if self.n_cut else self.at_cuts * np.nan
        return mean

    def told(self, facts: GameFacts) -> dict[str, Any]:
        """For `details`: at most a hundred points of the curve, and where walks were cut.

        A point is the removals, the walks behind it, the first metric's mean and the guard's. Walks
        that were cut early are missing from later points, which are higher for it.
        """
        known = np.flatnonzero(self.counts)
        shown = (
            known[np.unique(np.linspace(0, len(known) - 1, _SHOWN).astype(int))]
            if len(known)
            else known
        )
        means = self.sums[shown] / self.counts[shown, None]
        points = [
            [int(n), int(count), *mean]
            for n, count, mean in zip(
                shown.tolist(), self.counts[shown].tolist(), means.tolist(), strict=True
            )
        ]
        cuts: dict[str, Any] = {"walks": self.n_walks, "truncated_walks": self.n_cut}
        if self.n_cut:
            values = dict(zip(facts.metrics, self.mean_value_at_cut.tolist(), strict=True))
            cuts |= {"mean_cut": self.mean_cut, "mean_value_at_cut": values}
        return {"curve": points, "truncation": cuts}
