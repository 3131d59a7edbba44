"""What came of the rows of a regression, metric by metric.

Where there are many metrics most outcomes are zero: a row of one image says something about the
recall of that image's class and of no other. So only what is not zero is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from repairkit.core.game import GameFacts, ImagePool
from repairkit.estimators.linear.rows import RegressionRows

Floats = NDArray[np.float64]

_FEW_METRICS = 8


@dataclass
class OutcomeTable:
    """One entry per round in each list.

    Of few metrics, `numbers` are whole tables (n_rows, n_metrics) and `places` are empty; of many,
    `numbers` are those that are not zero, and `places` where they stand in the table of all rounds,
    counted row by row. 32 bits each.
    """

    n_metrics: int
    n_rows: int = 0
    numbers: list[NDArray[np.float32]] = field(default_factory=list)
    places: list[NDArray[np.int64]] = field(default_factory=list)

    def add(self, values: Floats) -> None:
        """A round's, (n_rows, n_metrics)."""
        kept = values.astype(np.float32)
        if self.n_metrics > _FEW_METRICS:
            flat = kept.ravel()
            own = np.flatnonzero(flat)
            self.places.append(own + self.n_rows * self.n_metrics)
            kept = flat[own]
        self.numbers.append(kept)
        self.n_rows += len(values)

    def part(self, rows: NDArray[np.intp], factors: Floats) -> OutcomeTable:
        """Some rows (rising), each number multiplied by its factor, (n_kept_rows, n_metrics)."""
        kept = OutcomeTable(self.n_metrics, len(rows))
        if not self.numbers:
            return kept
        numbers = np.concatenate(self.numbers)
        if not self.places:
            kept.numbers.append((numbers[rows] * factors).astype(np.float32))
            return kept
        at, metrics = np.divmod(np.concatenate(self.places), self.n_metrics)
        new = np.full(self.n_rows, -1, np.int64)
        new[rows] = np.arange(len(rows))
        there = new[at] >= 0
        at, metrics = new[at[there]], metrics[there]
        kept.numbers.append((numbers[there] * factors[at, metrics]).astype(np.float32))
        kept.places.append(at * self.n_metrics + metrics)
        return kept

    def columns(self) -> Columns:
        """Ready to be looked at metric by metric."""
        numbers = np.concatenate(self.numbers)
        if not self.places:
            return Columns(self.n_rows, numbers, None, None)
        rows, metrics = np.divmod(np.concatenate(self.places), self.n_metrics)
        order = np.argsort(metrics, kind="stable")
        starts = np.searchsorted(metrics[order], np.arange(self.n_metrics + 1))
        return Columns(self.n_rows, numbers[order], rows[order], starts)


@dataclass(frozen=True)
class Columns:
    """A table by metric: whole, or what is not zero of metric m in `starts[m]:starts[m + 1]`."""

    n_rows: int
    numbers: NDArray[np.float32]
    rows: NDArray[np.int64] | None
    starts: NDArray[np.int64] | None

    def of(self, metrics: NDArray[np.intp], rows: NDArray[np.intp] | None) -> Floats:
        """Outcomes of some metrics in some rows (rising; all if None), (n_rows, n_metrics)."""
        if self.rows is None or self.starts is None:
            chosen = self.numbers if rows is None else self.numbers[rows]
            return chosen[:, metrics].astype(np.float64)
        found = np.zeros((self.n_rows if rows is None else len(rows), len(metrics)))
        for column, metric in enumerate(metrics.tolist()):
            own = slice(int(self.starts[metric]), int(self.starts[metric + 1]))
            at, numbers = self.rows[own], self.numbers[own]
            if rows is not None and len(rows):
                place = np.minimum(np.searchsorted(rows, at), len(rows) - 1)
                there = rows[place] == at
                at, numbers = place[there], numbers[there]
            if len(found):
                found[at, column] = numbers
        return found


@dataclass(frozen=True)
class Share:
    """Metrics that look at the same `images`: rows on others are zero for them and tell nothing.

    `rows` and `images` are None where all count; `weight` is the probability that a row does, by
    which outcomes are multiplied to stay estimates of V.
    """

    metrics: NDArray[np.intp]
    rows: NDArray[np.intp] | None
    weight: float
    images: NDArray[np.intp] | None = None


def shares(facts: GameFacts, rows: RegressionRows) -> Iterator[Share]:
    """All metrics, the first metric's share first."""
    drawn = rows.all_images()
    images_of: tuple[NDArray[np.intp] | None, ...] = (None,) * facts.n_metrics
    if drawn.shape[1] == 1 and facts.images_of:
        images_of = facts.images_of
    together: dict[bytes, list[int]] = {}
    for metric, images in enumerate(images_of):
        together.setdefault(b"" if images is None else images.tobytes(), []).append(metric)
    for metrics in together.values():
        own = images_of[metrics[0]]
        if own is None:
            yield Share(np.array(metrics), None, 1.0)
        else:
            yield Share(np.array(metrics), *_of_images(facts.pool, own, drawn[:, 0]), own)


def _of_images(
    pool: ImagePool, images: NDArray[np.intp], drawn: NDArray[np.int64]
) -> tuple[NDArray[np.intp], float]:
    """The rows on these images, and how likely a row is to be one of them."""
    counted = np.zeros(len(pool), bool)
    counted[images] = True
    return np.flatnonzero(counted[drawn]), float(pool.probabilities[images].sum())
