"""Figures of any subset of images: a metric's own, its smooth twin's, and how a change moves them.

A filter moves many images a little and few across the border between right and wrong. So a figure
of likelihoods tells more of it than one of right answers, on the same images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.core.arrays import Array
from repairkit.core.attacked import adversarial, is_attacked
from repairkit.core.metric import Metric, ScoreImages
from repairkit.core.suite import Annotations, Indices
from repairkit.metrics.evaluation import Means, resampled_sets, stratified_draws

Floats = NDArray[np.float64]
SHARPNESS = 8.0
"""Of the softened minimum over groups, per unit of log-likelihood."""


@dataclass(frozen=True)
class FigureOfImages:
    """A figure of any of the images of some annotations, made of one number for each.

    Attributes:
        score: outputs and annotations to one number for each image, (n_images,).
        weights: how much each image counts, (n_images,).
        groups: group of each image where the figure is that of the group that fares worst: a
            softened minimum, so that groups that fare nearly as badly count too.
    """

    annotations: Annotations
    score: ScoreImages
    weights: NDArray[np.float64]
    groups: NDArray[np.int64] | None = None

    def columns(self, outputs: Array) -> NDArray[np.float64]:
        """Shape (n_images,)."""
        return self.score(outputs, self.annotations)

    def figure(self, columns: NDArray[np.float64], positions: Indices) -> float:
        """Of the images at `positions`; a group without any of them is not judged."""
        weights, scores = self.weights[positions], columns[positions]
        if self.groups is None:
            whole = weights.sum()
            return float(weights @ scores / whole) if whole > 0 else 0.0
        groups = self.groups[positions]
        wholes = np.bincount(groups, weights)
        sums = np.bincount(groups, weights * scores)
        return _soft_minimum(sums[wholes > 0] / wholes[wholes > 0])


def _soft_minimum(figures: NDArray[np.float64]) -> float:
    """-log(mean(exp(-s x))) / s for sharpness s: between the mean and the minimum."""
    least = figures.min()
    away = np.exp(-SHARPNESS * (figures - least)).mean()
    return float(least - np.log(away) / SHARPNESS)


@dataclass(frozen=True)
class FigureOfOutputs:
    """A metric that judges images together, on any of the images of some annotations."""

    annotations: Annotations
    metric: Metric

    def columns(self, outputs: Array) -> Array:
        """The outputs themselves."""
        return outputs

    def figure(self, columns: Array, positions: Indices) -> float:
        """Of the images at `positions`."""
        return float(self.metric.score(columns[positions], self.annotations.take(positions)))


def figure_of(metric: Metric, annotations: Annotations) -> FigureOfImages | FigureOfOutputs:
    """The metric itself, ready for subsets of the images of `annotations`."""
    if metric.per_image:
        return FigureOfImages(annotations, metric.score, metric.weights(annotations))
    return FigureOfOutputs(annotations, metric)


def smooth_figure(metric: Metric, annotations: Annotations) -> FigureOfImages | FigureOfOutputs:
    """What to choose by for a metric's sake: its smooth twin, or the metric itself without one."""
    if metric.smooth is None:
        return figure_of(metric, annotations)
    if metric.per_image:
        return FigureOfImages(annotations, metric.smooth, metric.weights(annotations))
    evenly = np.full(len(annotations), 1.0 / len(annotations))
    return FigureOfImages(annotations, metric.smooth, evenly, annotations.groups)


@dataclass(frozen=True, eq=False)
class Change:
    """A change of a figure, and of its resamples (n_resamples,); natural direction."""

    value: float
    resampled: Floats

    def bound(self, level: float, *, sign: int = 1, widening: float = 1.0) -> float:
        """The one-sided lower bound of the improvement, drawn out by a factor.

        Args:
            level: the chance that the true improvement lies below.
            sign: 1 where more is better, else -1.
            widening: what the distance to the bound is multiplied by.
        """
        improved = sign * self.resampled
        below = sign * self.value - float(np.quantile(improved, level))
        return sign * self.value - widening * max(0.0, below)

    def p_gain(self, *, sign: int = 1) -> float:
        """The share of resamples without an improvement."""
        return float(np.mean(sign * self.resampled <= 0))


def paired_change(
    before: Array,
    after: Array,
    figure: FigureOfImages | FigureOfOutputs,
    *,
    n_resamples: int = 2000,
    seed: int,
) -> Change:
    """What a figure changes by, with a paired bootstrap that is stratified by group.

    Args:
        before: the model's outputs for all images of the figure's annotations.
        after: those of the changed model.
        figure: of the metric, or of its smooth twin.
        n_resamples: of the bootstrap.
        seed: of the resamples.
    """
    own, everyone = figure.columns(before), np.arange(len(before))
    changed = figure.columns(after)
    value = figure.figure(changed, everyone) - figure.figure(own, everyone)
    drawn = [
        _changes(figure, before, after, own, changed, draws)
        for draws in _draws(figure.annotations, n_resamples, seed)
    ]
    return Change(value, np.concatenate(drawn))


def _changes(
    figure: FigureOfImages | FigureOfOutputs,
    before: Array,
    after: Array,
    own: Array,
    changed: Array,
    draws: NDArray[np.intp],
) -> Floats:
    """The change on each resample, (n_draws,)."""
    if isinstance(figure, FigureOfOutputs):
        metrics: tuple[Metric, ...] = (figure.metric,)
        sets = [resampled_sets(o, figure.annotations, metrics, draws) for o in (before, after)]
        return np.asarray(np.nan_to_num(sets[1] - sets[0])[:, 0])
    if figure.groups is None:
        means = Means(("",), (changed - own)[:, None], figure.weights[:, None])
        return np.asarray(np.nan_to_num(means.resampled(draws))[:, 0])
    return np.array([figure.figure(changed, row) - figure.figure(own, row) for row in draws])


def _draws(annotations: Annotations, n_resamples: int, seed: int) -> Iterator[NDArray[np.intp]]:
    strata = np.zeros(len(annotations), np.int64)
    if annotations.groups is not None:
        strata = annotations.groups
    if is_attacked(annotations):
        strata = 2 * strata + adversarial(annotations)
    return stratified_draws(strata, n_resamples, np.random.default_rng(seed))
