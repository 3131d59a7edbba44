"""Moving means and variances of many players (Welford 1962)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass
class Moments:
    """Of the samples seen so far.

    `counts` (n_players,); `means` and `squares` (n_players, n_metrics), the latter the sums of
    squared deviations from the mean.
    """

    counts: NDArray[np.int64]
    means: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def empty(cls, n_players: int, n_metrics: int) -> Moments:
        shape = (n_players, n_metrics)
        return cls(np.zeros(n_players, np.int64), np.zeros(shape), np.zeros(shape))

    def add(self, players: NDArray[np.int64], samples: NDArray[np.float64]) -> None:
        """One sample each, (n_samples, n_metrics), of different players."""
        self.counts[players] += 1
        before = samples - self.means[players]
        self.means[players] += before / self.counts[players, None]
        self.squares[players] += before * (samples - self.means[players])

    def variances(self) -> NDArray[np.float64]:
        """Unbiased variances of one sample, (n_players, n_metrics); infinite below two samples."""
        variances = np.full(self.squares.shape, np.inf)
        enough = self.counts > 1
        variances[enough] = self.squares[enough] / (self.counts[enough, None] - 1)
        return variances

    def std_errors(self) -> NDArray[np.float64]:
        """Of the means, (n_players, n_metrics); infinite below two samples."""
        errors: NDArray[np.float64] = np.sqrt(
            self.variances() / np.maximum(self.counts, 1)[:, None]
        )
        return errors


def merge(some: Moments, others: Moments) -> Moments:
    """Of all samples of both (Chan, Golub & LeVeque 1983)."""
    counts = some.counts + others.counts
    total = np.maximum(counts, 1)[:, None]
    share = others.counts[:, None] / total
    gap = others.means - some.means
    squares = some.squares + others.squares + gap**2 * share * some.counts[:, None]
    return Moments(counts, some.means + gap * share, squares)
