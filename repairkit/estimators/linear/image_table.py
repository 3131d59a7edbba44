"""What each image loses with each player alone: kept in 32 bits, as far as memory allows.

Where there are many metrics most of them look at few images: a row of one image says something
about its own class and group only. So only the pairs of image and metric that count are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from repairkit.core.game import GameFacts, SomeImages

Floats = NDArray[np.float64]
MOST_BYTES = 2**28
"""Beyond 256 MiB nothing is kept, and values of some images cannot be told."""


@dataclass
class ImageTable:
    """Differences, full coalition less all but one player, on rows that hold every image.

    `images` and `metrics` (n_pairs,) name the pairs that are kept; `parts` hold
    (n_players_of_a_round, n_pairs) each, players in their order.
    """

    images: NDArray[np.int64]
    metrics: NDArray[np.int64]
    kept: bool
    parts: list[NDArray[np.float32]] = field(default_factory=list)

    @classmethod
    def of(cls, facts: GameFacts) -> ImageTable:
        """Nothing yet; a game of sets, or one that needs more than `MOST_BYTES`, keeps nothing."""
        counts = np.zeros((len(facts.pool), facts.n_metrics), bool)
        for metric, own in enumerate(facts.images_of or (None,) * facts.n_metrics):
            counts[slice(None) if own is None else own, metric] = True
        images, metrics = (found.astype(np.int64) for found in np.nonzero(counts))
        fits = 4 * len(images) * facts.n_players <= MOST_BYTES
        return cls(images, metrics, fits and not facts.of_sets)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def add(self, differences: Floats) -> None:
        """The next players', (n_players, n_images, n_metrics)."""
        if self.kept:
            self.parts.append(differences[:, self.images, self.metrics].astype(np.float32))

    def moments(self, some: SomeImages) -> tuple[Floats, Floats]:
        """Means and unbiased variances over these images, (n_players, n_metrics) each.

        A variance of one image is infinite.
        """
        n, n_metrics = len(some.positions), some.ratios.shape[1]
        shape = (len(self), n_metrics)
        if not len(self):
            return np.zeros(shape), np.full(shape, np.inf)
        places = np.full(some.n_all, -1, np.int64)
        places[some.positions] = np.arange(n)
        place, table = places[self.images], np.concatenate(self.parts)
        means, variances = np.zeros(shape), np.full(shape, np.inf)
        for metric in range(n_metrics):
            own = np.flatnonzero((place >= 0) & (self.metrics == metric))
            differences = table[:, own] * some.undrawn[place[own], metric]
            means[:, metric] = differences.sum(axis=1) / n
            if n > 1:
                # The other images count nothing, so that they lie at zero.
                off = ((differences - means[:, metric, None]) ** 2).sum(axis=1)
                off += (n - len(own)) * means[:, metric] ** 2
                variances[:, metric] = off / (n - 1)
        return means, variances
