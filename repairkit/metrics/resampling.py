"""Figures of resampled images, and of any subset of them: a metric's, or its smooth twin's.

A resample is a row of `draws` (n_draws, n_images): positions of images, some twice, some not at
all. A weighted mean of a resample needs only how often each image was drawn, and a metric that
compares groups only a tally, so neither looks at outputs again. Only a user's metric that gives one
number for all images is called once per resample.

A filter moves many images a little, and few across the border between right and wrong. So on the
same images, the smooth twin of a metric, made of likelihoods, tells more of a filter.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.core import attacked, marked, results, suite
from repairkit.core.metric import Metric, ScoreImages
from repairkit.core.outputs import OutputForm
from repairkit.metrics.definition import GroupMetric, Tally, count_draws

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

    def resampled(self, draws: suite.Indices) -> FigureTable:
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
    outputs: suite.Array,
    annotations: suite.Annotations,
    metrics: Sequence[Metric],
    draws: suite.Indices,
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
    figures: Callable[[suite.Indices], FigureTable],
    strata: NDArray[np.int64],
    *,
    copies: NDArray[np.intp] | None = None,
    n_resamples: int,
    confidence: float,
    seed: int,
) -> list[results.Figure]:
    """One figure per column of what `figures` makes of draws, with its percentile interval.

    Resampling makes a worst group or a greatest difference look worse than it is, so such intervals
    lean to the worse side; they are widened to hold the figure itself. Draws that do not define a
    figure say nothing of it. One that the images themselves do not define is NaN, and so are the
    ends of an interval that no draw tells of.
    """
    values = figures(np.arange(len(strata))[np.newaxis])[0]
    rng = np.random.default_rng(seed)
    tables = [figures(draws) for draws in stratified_draws(strata, n_resamples, rng, copies)]
    intervals = []
    for value, column in zip(values, np.vstack(tables).T, strict=True):
        known = column[~np.isnan(column)]
        if np.isnan(value) or not len(known):
            intervals.append(results.Figure(float(value), math.nan, math.nan))
            continue
        low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
        intervals.append(
            results.Figure(float(value), float(min(low, value)), float(max(high, value)))
        )
    return intervals


def strata_by_group(annotations: suite.Annotations) -> NDArray[np.int64]:
    """The stratum of each image, (n_images,): its group, an attack's work or not, to fix or not."""
    strata = marked.marks_of(annotations)
    if annotations.groups is not None:
        strata = strata * (annotations.groups.max(initial=0) + 1) + annotations.groups
    if attacked.is_attacked(annotations):
        strata = 2 * strata + attacked.adversarial(annotations)
    return strata


def stratified_draws(
    strata: NDArray[np.int64],
    n_resamples: int,
    rng: np.random.Generator,
    copies: NDArray[np.intp] | None = None,
) -> Iterator[suite.Indices]:
    """Chunks (n_draws, n_images) of resamples, with as many images of each stratum as there are.

    Args:
        strata: of each image, (n_images,).
        n_resamples: how many.
        rng: draws them.
        copies: (n_images,): images of one number are drawn together; each is alone if None. So an
            image and its spoiled copies count as one image, and not as several that agree.
    """
    if copies is None:
        members = [np.flatnonzero(strata == each)[:, None] for each in np.unique(strata)]
    else:
        members = _families(strata, copies)
    n_rows = max(1, _CHUNK // len(strata))
    for start in range(0, n_resamples, n_rows):
        size = min(n_rows, n_resamples - start)
        yield np.hstack(
            [
                families[rng.integers(len(families), size=(size, len(families)))].reshape(size, -1)
                for families in members
            ]
        )


def _families(strata: NDArray[np.int64], copies: NDArray[np.intp]) -> list[suite.Indices]:
    """Positions (n_families, n_members) of the twins whose members are of the same strata."""
    order = np.lexsort((strata, copies))
    starts = np.flatnonzero(np.diff(copies[order])) + 1
    alike: dict[tuple[int, ...], list[suite.Indices]] = {}
    for family in np.split(order, starts):
        alike.setdefault(tuple(strata[family].tolist()), []).append(family)
    return [np.stack(families) for _, families in sorted(alike.items())]


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

    annotations: suite.Annotations
    score: ScoreImages
    weights: NDArray[np.float64]
    groups: NDArray[np.int64] | None = None

    def columns(self, outputs: suite.Array) -> NDArray[np.float64]:
        """Shape (n_images,)."""
        return self.score(outputs, self.annotations)

    def figure(self, columns: NDArray[np.float64], positions: suite.Indices) -> float:
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

    annotations: suite.Annotations
    metric: Metric

    def columns(self, outputs: suite.Array) -> suite.Array:
        """The outputs themselves."""
        return outputs

    def figure(self, columns: suite.Array, positions: suite.Indices) -> float:
        """Of the images at `positions`."""
        return float(self.metric.score(columns[positions], self.annotations.take(positions)))


def figure_of(metric: Metric, annotations: suite.Annotations) -> FigureOfImages | FigureOfOutputs:
    """The metric itself, ready for subsets of the images of `annotations`."""
    if metric.per_image:
        return FigureOfImages(annotations, metric.score, metric.weights(annotations))
    return FigureOfOutputs(annotations, metric)


def smooth_figure(
    metric: Metric, annotations: suite.Annotations
) -> FigureOfImages | FigureOfOutputs:
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
    before: suite.Array,
    after: suite.Array,
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
    unchanged, everyone = figure.columns(before), np.arange(len(before))
    changed = figure.columns(after)
    value = figure.figure(changed, everyone) - figure.figure(unchanged, everyone)
    about, rng = figure.annotations, np.random.default_rng(seed)
    copies = attacked.copies_of(about)
    drawn = [
        _changes(figure, before, after, unchanged, changed, draws)
        for draws in stratified_draws(strata_by_group(about), n_resamples, rng, copies)
    ]
    return Change(value, np.concatenate(drawn))


def _changes(
    figure: FigureOfImages | FigureOfOutputs,
    before: suite.Array,
    after: suite.Array,
    unchanged: suite.Array,
    changed: suite.Array,
    draws: NDArray[np.intp],
) -> Floats:
    """The change on each resample, (n_draws,)."""
    if isinstance(figure, FigureOfOutputs):
        metrics: tuple[Metric, ...] = (figure.metric,)
        sets = [resampled_sets(o, figure.annotations, metrics, draws) for o in (before, after)]
        return np.asarray(np.nan_to_num(sets[1] - sets[0])[:, 0])
    if figure.groups is None:
        means = Means(("",), (changed - unchanged)[:, None], figure.weights[:, None])
        return np.asarray(np.nan_to_num(means.resampled(draws))[:, 0])
    return np.array([figure.figure(changed, row) - figure.figure(unchanged, row) for row in draws])
