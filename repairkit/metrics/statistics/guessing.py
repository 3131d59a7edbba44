"""Whether answers of a classifier are better than guesses, and whether other answers are better.

All tests are exact or by permutation, so that they hold for few images too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from repairkit.core.arrays import Array

_SURE = 0.05
_LITTLE_SKILL = 0.25  # of the way from guessing to perfect
_NEARLY_ALL = 0.9
_MORE_THAN_LABELS = 0.25
FEWEST = 20
"""With fewer images nothing is said of guesses."""
_HARDLY_BY_CHANCE = 0.01
_PERMUTATIONS = 2000

Predictions = NDArray[np.int64]


@dataclass(frozen=True)
class Guessing:
    """How predictions compare with guesses.

    Attributes:
        n_images: of them all.
        accuracy: share of right answers.
        by_chance: the share that these predictions would reach if they had nothing to do with the
            labels: the mean over permutations.
        p_value: of the hypothesis that they have nothing to do with the labels, against that they
            are better.
        surely_little: whether a quarter of the way from `by_chance` to 1 is surely not reached.
        commonest: the class that is answered most often; -1 where no answer is a number.
        share: how often it is.
        label_share: how often it is right to be.
    """

    n_images: int
    accuracy: float
    by_chance: float
    p_value: float
    surely_little: bool
    commonest: int
    share: float
    label_share: float

    @property
    def at_chance(self) -> bool:
        """Whether the answers are near or below chance; a handful of images cannot tell."""
        return self.n_images >= FEWEST and self.p_value > _SURE and self.surely_little

    @property
    def one_takes_all(self) -> bool:
        """Whether one class takes nearly all answers, where the labels do not."""
        skill = (self.accuracy - self.by_chance) / max(1.0 - self.by_chance, 1e-9)
        count = round(self.share * self.n_images)
        by_chance = _at_least(count, self.n_images, self.label_share)
        return (
            self.n_images >= FEWEST
            and self.share >= _NEARLY_ALL
            and self.share - self.label_share >= _MORE_THAN_LABELS
            and skill < _LITTLE_SKILL
            and by_chance <= _HARDLY_BY_CHANCE
        )


def look_for_guessing(
    predictions: Predictions, labels: Array, n_classes: int, rng: Generator
) -> Guessing:
    """Compare predictions (n_images,), -1 where there is none, with labels; at least one image."""
    n, hits = len(labels), int((predictions == labels).sum())
    answered, known = (
        np.bincount(values[values >= 0], minlength=n_classes) for values in (predictions, labels)
    )
    width = max(len(answered), len(known))
    answered, known = (np.pad(counts, (0, width - len(counts))) for counts in (answered, known))
    if (known > 0).sum() > 1:
        by_chance = float(answered @ known) / n**2
        permuted = rng.permuted(np.tile(labels, (_PERMUTATIONS, 1)), axis=1)
        as_good = int(((permuted == predictions).sum(axis=1) >= hits).sum())
        p_value = (1 + as_good) / (1 + _PERMUTATIONS)
    else:  # of one class alone, nothing could be permuted
        by_chance = 1.0 / max(n_classes, 2)
        p_value = _at_least(hits, n, by_chance)
    little = by_chance + _LITTLE_SKILL * (1.0 - by_chance)
    commonest = int(answered.argmax()) if answered.any() else -1
    return Guessing(
        n,
        hits / n,
        by_chance,
        p_value,
        1.0 - _at_least(hits + 1, n, little) <= _SURE,
        commonest,
        float((predictions == commonest).mean()),
        float((labels == commonest).mean()),
    )


def better_by_chance(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> float:
    """The p-value that answers after are right more often than before on the same images.

    The exact one-sided test of McNemar (1947): of the images on which the two differ, as many are
    gained as heads of a fair coin.
    """
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    return _at_least(gained, gained + lost, 0.5)


def _at_least(count: int, n: int, p: float) -> float:
    """The probability of `count` or more of `n` independent events of probability `p`."""
    if count <= 0:
        return 1.0
    if count > n or p <= 0.0:
        return 0.0
    if p >= 1.0:
        return 1.0
    logs = [
        math.lgamma(n + 1)
        - math.lgamma(k + 1)
        - math.lgamma(n - k + 1)
        + k * math.log(p)
        + (n - k) * math.log1p(-p)
        for k in range(count, n + 1)
    ]
    return min(1.0, math.fsum(map(math.exp, logs)))
