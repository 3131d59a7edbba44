"""Gains free of selection bias: what is best on some images is judged on the others.

The best of many coalitions looks better than it is on the images that made it the best (winner's
curse). Here each fold of the images is judged under the coalition that is best without it. The
judged images together tell what choosing like this is worth, however many were looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from repairkit.core import results, suite

_FEWEST_FOLDS = 2

Columns = suite.Array
"""Shape (n_images, ...): what a criterion keeps of each image's outputs."""


class Criterion(Protocol):
    """What a search maximises, on any subset of the images that it was made for.

    `additive` tells whether changes of `columns` may be added up to predict those of larger sets.
    """

    @property
    def additive(self) -> bool: ...

    def columns(self, outputs: suite.Array) -> Columns:
        """What `figure` needs of the outputs for all images, in order."""
        ...

    def figure(self, columns: Columns, positions: suite.Indices) -> float:
        """The figure of the images at `positions` (some may stand twice); greater is better."""
        ...

    def objection(self, outputs: suite.Array, positions: suite.Indices) -> str:
        """Which limit these outputs break on the images at `positions`; empty where none."""
        ...


@dataclass(frozen=True)
class Bound:
    """A gain and its one-sided lower confidence bound."""

    value: float
    low: float


@dataclass(frozen=True)
class Folds:
    """Images shared out for cross-fitting.

    `fold_of` (n_images,) numbers each image's fold; -1 marks an image that takes no part. `strata`
    (n_images,) are resampled each by itself.
    """

    fold_of: NDArray[np.intp]
    strata: NDArray[np.int64]

    @property
    def n_folds(self) -> int:
        return int(self.fold_of.max()) + 1

    @property
    def everyone(self) -> suite.Indices:
        """The images that take part."""
        return np.flatnonzero(self.fold_of >= 0)

    @property
    def parts(self) -> list[suite.Indices]:
        """The images of each fold."""
        return [np.flatnonzero(self.fold_of == fold) for fold in range(self.n_folds)]

    @property
    def rest(self) -> list[suite.Indices]:
        """For each fold the images outside it that take part."""
        part = self.fold_of >= 0
        return [np.flatnonzero(part & (self.fold_of != fold)) for fold in range(self.n_folds)]

    def among(self, within: suite.Indices) -> Folds | None:
        """The same folds of just the images at `within`, numbered anew.

        None where these images do not make up two whole folds or more.
        """
        part = np.zeros(len(self.fold_of), bool)
        part[within] = True
        kept = np.unique(self.fold_of[part & (self.fold_of >= 0)])
        whole = np.isin(self.fold_of, kept) & (self.fold_of >= 0)
        if len(kept) < _FEWEST_FOLDS or not (whole == part).all():
            return None
        numbers = np.full(len(self.fold_of), -1, np.intp)
        numbers[part] = np.searchsorted(kept, self.fold_of[part])
        return Folds(numbers, self.strata)

    def draws(self, n_resamples: int, rng: np.random.Generator) -> NDArray[np.intp]:
        """Positions (n_resamples, n_taking_part): as many of each stratum as there are."""
        parts = []
        part = self.fold_of >= 0
        for stratum in np.unique(self.strata[part]):
            members = np.flatnonzero(part & (self.strata == stratum))
            parts.append(members[rng.integers(len(members), size=(n_resamples, len(members)))])
        return np.hstack(parts)


def assign_folds(
    strata: NDArray[np.int64],
    n_folds: int,
    rng: np.random.Generator,
    *,
    within: suite.Indices | None = None,
    twins: NDArray[np.intp] | None = None,
) -> Folds:
    """Folds that hold their share of every stratum; never more than there are images.

    Args:
        strata: of each image, (n_images,).
        n_folds: how many.
        rng: draws them.
        within: positions of the images that take part; all if None.
        twins: (n_images,): images of one number are kept in one fold; each is alone if None. The
            stratum of the first image of a number counts for all of them.
    """
    positions = np.arange(len(strata)) if within is None else within
    alone = np.arange(len(strata)) if twins is None else twins
    _, first, family = np.unique(alone[positions], return_index=True, return_inverse=True)
    n_folds = max(2, min(n_folds, len(first)))
    order = np.lexsort((rng.random(len(first)), strata[positions[first]]))
    fold_of_family = np.empty(len(first), np.intp)
    fold_of_family[order] = np.arange(len(first)) % n_folds
    fold_of = np.full(len(strata), -1, np.intp)
    fold_of[positions] = fold_of_family[family]
    return Folds(fold_of, strata)


def widening(n_folds: int) -> float:
    """By how much the error of a cross-fitted figure exceeds that of independent images.

    Folds share most of the images that choose, so their results vary together. The factor is
    sqrt(1 + K / (K - 1)) for K folds (Nadeau & Bengio 2003, section 4).
    """
    return math.sqrt(1 + n_folds / (n_folds - 1))


def widen(figure: results.Figure, factor: float) -> results.Figure:
    """The same value with each side of its interval `factor` times as wide."""
    value = figure.value
    low, high = value - figure.ci_low, figure.ci_high - value
    return results.Figure(value, value - factor * low, value + factor * high)


@dataclass(frozen=True)
class FoldFigures:
    """One coalition on all images: its figure, and those without each fold."""

    columns: Columns
    figure: float
    without: tuple[float, ...]


def look(criterion: Criterion, outputs: suite.Array, folds: Folds) -> FoldFigures:
    """Judge a coalition's outputs."""
    return look_at_columns(criterion, criterion.columns(outputs), folds)


def look_at_columns(criterion: Criterion, columns: Columns, folds: Folds) -> FoldFigures:
    """Judge a coalition by what a criterion keeps of its outputs."""
    without = tuple(criterion.figure(columns, rest) for rest in folds.rest)
    return FoldFigures(columns, criterion.figure(columns, folds.everyone), without)


Allowed = NDArray[np.bool_]
"""Shape (n_contenders, n_folds): whether a contender was found without the images of a fold."""


def cross_fitted(
    champion: FoldFigures, contenders: Sequence[FoldFigures], folds: Folds, allowed: Allowed
) -> Columns:
    """Every image's columns under the contender that is best without the image's fold.

    Where no contender is allowed for a fold, the champion stays.
    """
    without = np.array([c.without for c in contenders], dtype=float)
    best = np.where(allowed, without, -np.inf).argmax(axis=0)
    columns = champion.columns.copy()
    for fold, winner in enumerate(best.tolist()):
        if allowed[:, fold].any():
            members = folds.fold_of == fold
            columns[members] = contenders[winner].columns[members]
    return columns


def gain_of_choice(
    criterion: Criterion,
    champion: FoldFigures,
    contenders: Sequence[FoldFigures],
    folds: Folds,
    *,
    doubt: float,
    n_resamples: int,
    rng: np.random.Generator,
    allowed: Allowed | None = None,
) -> Bound:
    """What taking the best contender gains over the champion, cross-fitted.

    The bound is the `doubt` quantile of a paired bootstrap over images, stratified, and widened by
    `widening`.

    Args:
        criterion: the figure.
        champion: what the contenders are compared with.
        contenders: at least one.
        folds: of the images.
        doubt: the chance that the true gain lies below the bound.
        n_resamples: of the bootstrap.
        rng: draws them.
        allowed: see `Allowed`; every contender is allowed everywhere if None.
    """
    if allowed is None:
        allowed = np.ones((len(contenders), folds.n_folds), bool)
    chosen = cross_fitted(champion, contenders, folds, allowed)
    return gain_of_columns(
        criterion, champion.columns, chosen, folds, doubt=doubt, n_resamples=n_resamples, rng=rng
    )


def gain_of_columns(
    criterion: Criterion,
    before: Columns,
    after: Columns,
    folds: Folds,
    *,
    doubt: float,
    n_resamples: int,
    rng: np.random.Generator,
) -> Bound:
    """The gain of cross-fitted columns over others, with its bound; see `gain_of_choice`."""

    def gain(positions: suite.Indices) -> float:
        return criterion.figure(after, positions) - criterion.figure(before, positions)

    resampled = [gain(draw) for draw in folds.draws(n_resamples, rng)]
    value = gain(folds.everyone)
    below = value - float(np.quantile(resampled, doubt))
    return Bound(value, value - widening(folds.n_folds) * max(0.0, below))
