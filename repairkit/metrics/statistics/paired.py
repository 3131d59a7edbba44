"""Tests of a change on the same images: what was gained and lost, and how sure that is.

Both models answer the same images, so only images whose answer changed tell anything. For right and
wrong answers the test is exact (McNemar 1947, with the binomial distribution); for other figures it
is a paired bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.core.arrays import Array
from repairkit.core.attacked import is_attacked
from repairkit.core.metric import Metric
from repairkit.core.suite import Annotations
from repairkit.metrics.robustness import adversarial
from repairkit.metrics.smooth import FigureOfImages, FigureOfOutputs
from repairkit.metrics.statistics.bootstrap import Means, resampled_sets, stratified_draws

Floats = NDArray[np.float64]
_MOST_TIMES_MORE = 100


@dataclass(frozen=True)
class Discordant:
    """Images whose answer changed: from wrong to right, and from right to wrong."""

    gained: int
    lost: int
    n_images: int

    @classmethod
    def of(cls, before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Discordant:
        """Count them.

        Args:
            before: whether each image is answered rightly, (n_images,).
            after: the same after the change.
        """
        gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
        return cls(gained, lost, len(before))

    @property
    def p_gain(self) -> float:
        """One-sided p-value of "no more are gained than lost"."""
        return binomial_tail(self.gained, self.gained + self.lost)

    @property
    def p_loss(self) -> float:
        """One-sided p-value of "no more are lost than gained"."""
        return binomial_tail(self.lost, self.gained + self.lost)

    def images_needed(self, level: float) -> int | None:
        """How many more images would make the gain sure, if they changed at the rates seen.

        Args:
            level: of the one-sided test.

        Returns:
            0 where it is sure already; None where no more are gained than lost.
        """
        if self.p_gain <= level:
            return 0
        if self.gained <= self.lost:
            return None
        few, many = 1.0, 2.0
        while not self._is_sure(many, level):
            few, many = many, 2 * many
            if many > _MOST_TIMES_MORE:
                return None
        while (many - few) * self.n_images > 1:
            middle = (few + many) / 2
            few, many = (few, middle) if self._is_sure(middle, level) else (middle, many)
        return math.ceil((many - 1) * self.n_images)

    def _is_sure(self, times: float, level: float) -> bool:
        """Whether the gain is, with so many times the images, changed at the rates seen."""
        gained, lost = int(times * self.gained), math.ceil(times * self.lost)
        return binomial_tail(gained, gained + lost) <= level


def binomial_tail(successes: int, trials: int) -> float:
    """The chance of so many successes or more, each trial being fair; 1 without trials."""
    if successes <= 0:
        return 1.0
    logs = [
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
        for k in range(successes, trials + 1)
    ]
    return min(1.0, math.fsum(math.exp(log - trials * math.log(2)) for log in logs))


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
