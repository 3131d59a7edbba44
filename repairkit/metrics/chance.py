"""What chance explains: answers no better than guesses, and changes of answers on the same images.

All tests are exact or by permutation, so that they hold for few images too. Where two models answer
the same images, only images whose answer changed tell anything (McNemar 1947).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from repairkit.core.suite import Array

_SURE = 0.05
_LITTLE_SKILL = 0.25  # of the way from guessing to perfect
_NEARLY_ALL = 0.9
_MORE_THAN_LABELS = 0.25
FEWEST = 20
"""With fewer images nothing is said of guesses."""
_HARDLY_BY_CHANCE = 0.01
_PERMUTATIONS = 2000
_MOST_TIMES_MORE = 100
_HALVINGS = 50

Predictions = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
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
        n_images=n,
        accuracy=hits / n,
        by_chance=by_chance,
        p_value=p_value,
        surely_little=1.0 - _at_least(hits + 1, n, little) <= _SURE,
        commonest=commonest,
        share=float((predictions == commonest).mean()),
        label_share=float((labels == commonest).mean()),
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


def least_share(successes: int, trials: int, confidence: float) -> float:
    """The one-sided lower bound of a share (Clopper & Pearson 1934), by bisection; 0 at worst."""
    low, high = 0.0, successes / max(trials, 1)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _at_least(successes, trials, middle) <= 1 - confidence:
            low = middle
        else:
            high = middle
    return low


# Changes of answers


@dataclass(frozen=True)
class Discordant:
    """Images whose answer changed: from wrong to right, and from right to wrong."""

    gained: int
    lost: int
    n_images: int

    @classmethod
    def of(
        cls,
        before: NDArray[np.bool_],
        after: NDArray[np.bool_],
        twins: NDArray[np.intp] | None = None,
    ) -> Discordant:
        """Count them.

        Args:
            before: whether each image is answered rightly, (n_images,).
            after: the same after the change.
            twins: (n_images,): images of one number count as one, which is gained where more of
                them are gained than lost; each is alone if None.
        """
        changes = after.astype(np.intp) - before
        if twins is not None:
            family = np.unique(twins, return_inverse=True)[1]
            changes = np.sign(np.bincount(family, changes)).astype(np.intp)
        return cls(int((changes > 0).sum()), int((changes < 0).sum()), len(changes))

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
