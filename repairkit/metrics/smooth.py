"""Figures that change with every image a little, to choose by where shares of right answers jump.

A filter moves many images a little and few across the border between right and wrong. So a figure
of likelihoods tells more of it than one of right answers, on the same images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.core.arrays import Array
from repairkit.core.metric import Metric
from repairkit.core.suite import Annotations, Indices
from repairkit.metrics.groups import GroupMetric
from repairkit.metrics.images import Hits, ImageMetric, LogLikelihoods
from repairkit.metrics.outputs import OutputForm
from repairkit.metrics.robustness import Persuasion, SuccessLessAccuracy

WORST_GROUP = "worst_group_accuracy"
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
    score: Callable[[Array, Annotations], NDArray[np.float64]]
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


def smooth_figure(
    metric: Metric, annotations: Annotations, form: OutputForm | None
) -> FigureOfImages | FigureOfOutputs:
    """What to choose by for a metric's sake.

    Shares of right answers, overall or of a class or group, and that of the worst group, become
    means of log-likelihoods of the true class over the same images; robustness becomes
    `robustness_loss`. Other metrics stay.
    """
    if isinstance(metric, ImageMetric) and isinstance(metric.scorer, Hits):
        likelihoods = LogLikelihoods(metric.scorer.form)
        return FigureOfImages(annotations, likelihoods, metric.weights(annotations))
    if isinstance(metric, ImageMetric) and isinstance(metric.scorer, SuccessLessAccuracy):
        persuasion = Persuasion(metric.scorer.form)
        return FigureOfImages(annotations, persuasion, metric.weights(annotations))
    if isinstance(metric, GroupMetric) and metric.name == WORST_GROUP and form is not None:
        evenly = np.full(len(annotations), 1.0 / len(annotations))
        return FigureOfImages(annotations, LogLikelihoods(form), evenly, annotations.groups)
    return figure_of(metric, annotations)
