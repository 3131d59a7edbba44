"""Many figures of many resamples at once.

A resample is a row of `draws` (n_draws, n_images): positions of images, some twice, some not at
all. A weighted mean of a resample needs only how often each image was drawn, and a group metric
only a tally, so neither looks at outputs again. Just a metric that is one number and the user's own
is called once per resample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.core.arrays import Array
from repairkit.core.metric import Metric
from repairkit.core.patch import Figure
from repairkit.core.suite import Annotations, Indices
from repairkit.metrics.groups import GroupMetric, Tally, count_draws
from repairkit.metrics.outputs import OutputForm

# Images, or cells of a tally, that one chunk of resamples may fill: some 16 MB.
_CHUNK = 2_000_000

FigureTable = NDArray[np.float64]
"""Shape (n_draws, n_figures)."""


@dataclass(frozen=True)
class Means:
    """Weighted means over images, side by side; `scores` and `weights` are (n_images, n_means)."""

    names: tuple[str, ...]
    scores: NDArray[np.float64]
    weights: NDArray[np.float64]

    def resampled(self, draws: Indices) -> FigureTable:
        """Shape (n_draws, n_means); NaN where a draw holds no image that counts."""
        counts = count_draws(draws, len(self.scores)).astype(np.float64)
        # With a greatest weight of 1, a plain share is a quotient of whole numbers: exact.
        weights = self.weights / self.weights.max(axis=0)
        wholes = counts @ weights
        means = counts @ (weights * self.scores) / np.where(wholes > 0, wholes, np.nan)
        # A mean lies among what it is the mean of; rounding would let it out.
        inside: FigureTable = np.clip(means, self.scores.min(axis=0), self.scores.max(axis=0))
        return inside


def resampled_sets(
    outputs: Array, annotations: Annotations, metrics: Sequence[Metric], draws: Indices
) -> FigureTable:
    """Figures of metrics that are no means over images: (n_draws, n_metrics).

    NaN where a draw does not define one: no two groups hold images that its rates count.
    """
    tallied = [metric for metric in metrics if isinstance(metric, GroupMetric)]
    n_cells = max((m.n_classes * len(annotations.group_names) for m in tallied), default=1)
    n_rows = max(1, _CHUNK // n_cells)
    figures = np.empty((len(draws), len(metrics)))
    for start in range(0, len(draws) if metrics else 0, n_rows):
        rows = slice(start, start + n_rows)
        tallies: dict[tuple[OutputForm, int], Tally] = {}
        for column, metric in enumerate(metrics):
            if isinstance(metric, GroupMetric):
                key = (metric.form, metric.n_classes)
                if key not in tallies:
                    tallies[key] = metric.tally(outputs, annotations, draws[rows])
                tally = tallies[key]
                figures[rows, column] = np.where(metric.known(tally), metric.judge(tally), np.nan)
            else:
                figures[rows, column] = [
                    metric.score(outputs[draw], annotations.take(draw)) for draw in draws[rows]
                ]
    return figures


def figures_with_intervals(
    figures: Callable[[Indices], FigureTable],
    strata: NDArray[np.int64],
    *,
    n_resamples: int,
    confidence: float,
    seed: int,
) -> list[Figure]:
    """One figure per column of what `figures` makes of draws, with its percentile interval.

    Resampling makes a worst group or a greatest difference look worse than it is, so such intervals
    lean to the worse side; they are widened to hold the figure itself. Draws that do not define a
    figure say nothing of it. One that the images themselves do not define is NaN, and so are the
    ends of an interval that no draw tells of.
    """
    values = figures(np.arange(len(strata))[np.newaxis])[0]
    rng = np.random.default_rng(seed)
    tables = [figures(draws) for draws in stratified_draws(strata, n_resamples, rng)]
    found = []
    for value, column in zip(values, np.vstack(tables).T, strict=True):
        known = column[~np.isnan(column)]
        if np.isnan(value) or not len(known):
            found.append(Figure(float(value), math.nan, math.nan))
            continue
        low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
        found.append(Figure(float(value), float(min(low, value)), float(max(high, value))))
    return found


def stratified_draws(
    strata: NDArray[np.int64], n_resamples: int, rng: np.random.Generator
) -> Iterator[Indices]:
    """Chunks (n_draws, n_images) of resamples, with as many images of each stratum as there are."""
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    n_rows = max(1, _CHUNK // len(strata))
    for start in range(0, n_resamples, n_rows):
        size = min(n_rows, n_resamples - start)
        yield np.hstack(
            [
                positions[rng.integers(len(positions), size=(size, len(positions)))]
                for positions in members
            ]
        )
