"""Gains that no choice has flattered: what is best on some images is judged on the others.

The best of many coalitions looks better than it is on the images that made it the best (winner's
curse). Here each fold of the images is judged under the coalition that is best without it; the
judged images together tell what choosing like this is worth, however many were looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from repairkit.core.suite import Indices

Columns = NDArray[Any]
"""Shape (n_images, ...): what a criterion keeps of each image's outputs."""


class Criterion(Protocol):
    """What a search maximises, on any subset of the images that it was made for."""

    def columns(self, outputs: NDArray[Any]) -> Columns:
        """What `figure` needs of the outputs for all images, in order."""
        ...

    def figure(self, columns: Columns, positions: Indices) -> float:
        """The figure of the images at `positions` (some may stand twice); greater is better."""
        ...

    def objection(self, outputs: NDArray[Any]) -> str:
        """Which limit these outputs for all images break, for people; empty where none."""
        ...


@dataclass(frozen=True)
class Bound:
    """A gain and its one-sided lower confidence bound."""

    value: float
    low: float


@dataclass(frozen=True)
class Folds:
    """Images shared out for cross-fitting.

    `fold_of` (n_images,) numbers each image's fold; `strata` (n_images,) are resampled each by
    itself.
    """

    fold_of: NDArray[np.intp]
    strata: NDArray[np.int64]

    @property
    def n_folds(self) -> int:
        return int(self.fold_of.max()) + 1

    @property
    def rest(self) -> list[Indices]:
        """For each fold the images outside it."""
        return [np.flatnonzero(self.fold_of != fold) for fold in range(self.n_folds)]

    def draws(self, n_resamples: int, rng: np.random.Generator) -> NDArray[np.intp]:
        """Positions (n_resamples, n_images): as many of each stratum as there are."""
        parts = []
        for stratum in np.unique(self.strata):
            members = np.flatnonzero(self.strata == stratum)
            parts.append(members[rng.integers(len(members), size=(n_resamples, len(members)))])
        return np.hstack(parts)


def assign_folds(strata: NDArray[np.int64], n_folds: int, rng: np.random.Generator) -> Folds:
    """Folds that hold their share of every stratum; never more than there are images."""
    n_folds = max(2, min(n_folds, len(strata)))
    order = np.lexsort((rng.random(len(strata)), strata))
    fold_of = np.empty(len(strata), np.intp)
    fold_of[order] = np.arange(len(strata)) % n_folds
    return Folds(fold_of, strata)


@dataclass(frozen=True)
class Looked:
    """One coalition on all images: its figure, and those without each fold."""

    columns: Columns
    figure: float
    without: tuple[float, ...]


def look(criterion: Criterion, outputs: NDArray[Any], folds: Folds) -> Looked:
    """Judge a coalition's outputs."""
    columns = criterion.columns(outputs)
    everyone = np.arange(len(columns))
    without = tuple(criterion.figure(columns, rest) for rest in folds.rest)
    return Looked(columns, criterion.figure(columns, everyone), without)


def cross_fitted(contenders: Sequence[Looked], folds: Folds) -> Columns:
    """Every image's columns under the contender that is best without the image's fold."""
    best = np.argmax([c.without for c in contenders], axis=0)
    columns = np.empty_like(contenders[0].columns)
    for fold, winner in enumerate(best.tolist()):
        members = folds.fold_of == fold
        columns[members] = contenders[winner].columns[members]
    return columns


def gain_of_choice(
    criterion: Criterion,
    champion: Looked,
    contenders: Sequence[Looked],
    folds: Folds,
    *,
    doubt: float,
    n_resamples: int,
    rng: np.random.Generator,
) -> Bound:
    """What taking the best contender gains over the champion, cross-fitted.

    The bound is the `doubt` quantile of a paired bootstrap over images, stratified, and drawn out:
    folds share the images that choose, so that a cross-fitted figure varies more than one of as
    many independent images (Nadeau & Bengio 2003, section 4).
    """
    chosen = cross_fitted(contenders, folds)
    everyone = np.arange(len(chosen))

    def gain(positions: Indices) -> float:
        before = criterion.figure(champion.columns, positions)
        return criterion.figure(chosen, positions) - before

    resampled = [gain(draw) for draw in folds.draws(n_resamples, rng)]
    value = gain(everyone)
    drawn_out = math.sqrt(1 + folds.n_folds / (folds.n_folds - 1))
    below = value - float(np.quantile(resampled, doubt))
    return Bound(value, value - drawn_out * max(0.0, below))
