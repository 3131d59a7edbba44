"""How far an estimate has come: what two halves of its samples say of the same players."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from repairkit.estimators.statistics.moments import Moments

Floats = NDArray[np.float64]

_LEAST_PLAYERS = 3
_GROWTH = 1.5


def rank_correlation(some: Floats, others: Floats) -> float:
    """Spearman's, of two estimates of the same players, (n_players,); ties share their mean rank.

    NaN below three players, or where all of one estimate are equal.
    """
    if len(some) < _LEAST_PLAYERS or np.ptp(some) == 0 or np.ptp(others) == 0:
        return float("nan")
    return float(np.corrcoef(_ranks(some), _ranks(others))[0, 1])


def _ranks(values: Floats) -> Floats:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Floats = (ends - (counts - 1) / 2)[place]
    return ranks


@dataclass
class Halves:
    """The first metric's samples, dealt to two sides in turn.

    `trace` holds, at numbers of samples that grow by half, the evaluations made by then and the
    rank correlation of the sides over the players that both know.
    """

    sides: list[Moments]
    n_dealt: int = 0
    look_at: int = 4
    trace: list[tuple[int, float]] = field(default_factory=list)

    @classmethod
    def empty(cls, n_players: int) -> Halves:
        return cls([Moments.empty(n_players, 1), Moments.empty(n_players, 1)])

    def add(self, players: NDArray[np.int64], samples: Floats, n_evaluations: int) -> None:
        """Samples of different players, (n_samples, n_metrics), known after so many evaluations."""
        self.sides[self.n_dealt % 2].add(players, samples[:, :1])
        self.n_dealt += 1
        if self.n_dealt >= self.look_at:
            self.look_at = int(self.look_at * _GROWTH)
            self.trace.append((n_evaluations, self.correlation()))

    def correlation(self) -> float:
        """Of the sides now."""
        first, second = self.sides
        known = (first.counts > 0) & (second.counts > 0)
        return rank_correlation(first.means[known, 0], second.means[known, 0])

    def told(self) -> list[list[float]]:
        """The trace, for `details`; without what could not be told."""
        return [[float(n), value] for n, value in self.trace if np.isfinite(value)]
