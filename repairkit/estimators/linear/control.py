"""A control variate for rows: what each image loses with each player alone.

A control variate is a quantity whose mean is known and that moves with the one to be estimated, so
that subtracting it leaves less noise. Where a coalition lacks few players, its row loses nearly the
sum of what its image loses with each of these players alone. A table holds these losses. The game
that pays their sum is additive: its semivalue is the mean of the table's column, whatever the sizes
of coalitions. So a multiple of that game is added to the outcomes, which leaves little for the
regression to explain, and the same multiple of the column's mean is added back. No multiple biases
the values as long as it does not depend on the rows that it is applied to: it is fitted on the rows
of other images (cross-fitting).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from repairkit.core.game import ImagePool, Round, SomeImages

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

N_FOLDS = 5
_BLOCK = 2**21
_LEAST_PLAYERS = 16
_MOST_MOVED = 1.0  # standard errors by which shrinkage may move a value


@dataclass
class ControlTable:
    """V of all players less V without one, as drawn rows of each image would give it.

    `images` (n_kept,) are positions in the pool; `parts` hold (n_images, n_players, n_metrics)
    each, images in that order.
    """

    images: Ints
    parts: list[NDArray[np.float32]] = field(default_factory=list)

    @classmethod
    def none(cls) -> ControlTable:
        return cls(np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.images)

    def add(self, images: Ints, losses: NDArray[np.float32]) -> None:
        """Take in some images, (n_images, n_players, n_metrics)."""
        self.images = np.concatenate([self.images, images])
        self.parts.append(losses)

    @property
    def losses(self) -> NDArray[np.float32]:
        """All in one, (n_kept, n_players, n_metrics)."""
        if len(self.parts) != 1:
            self.parts = [np.concatenate(self.parts)]
        return self.parts[0]

    def places(self, n_images: int) -> Ints:
        """Where each image of the pool stands in the table; -1 where it does not."""
        places = np.full(n_images, -1, np.int64)
        places[self.images] = np.arange(len(self))
        return places

    def predict(self, asked: Round, n_images: int) -> Floats:
        """What rows of one image each lose by the table, (n_rows, n_metrics).

        Rows on images that the table does not know are predicted to lose nothing.
        """
        assert asked.images is not None
        losses, place = self.losses, self.places(n_images)[asked.images[:, 0]]
        n_players = asked.coalitions.shape[1]
        predicted = np.zeros((len(asked), losses.shape[2]))
        step = max(1, _BLOCK // n_players)
        known = np.flatnonzero(place >= 0)
        for start in range(0, len(known), step):
            rows = known[start : start + step]
            removed = (~asked.coalitions[rows]).astype(np.float32)
            for metric in range(losses.shape[2]):
                lost = losses[place[rows], :, metric]
                predicted[rows, metric] = np.einsum("rp,rp->r", removed, lost)
        return predicted

    def on(self, some: SomeImages) -> ControlTable:
        """The part of the table for these images, renumbered and reweighted."""
        place = self.places(some.n_all)[some.positions]
        kept = np.flatnonzero(place >= 0)
        factors = some.drawn[kept].astype(np.float32)[:, None, :]
        return ControlTable(kept.astype(np.int64), [self.losses[place[kept]] * factors])


@dataclass(frozen=True, kw_only=True)
class ControlRows:
    """What the control is fitted to, of rows of one image each.

    `outcomes` (less V(all)), `predicted` and `ahead` (the image's baseline less V(all)) are
    (n_rows, n_metrics); `sizes`, `images` and `weights`, by which rows count here, (n_rows,).
    `usual` hold, (n_rows, n_metrics) each, what is explained without a table too: what a mean image
    loses with these players, and what the image loses with a mean player.
    """

    outcomes: Floats
    predicted: Floats
    ahead: Floats
    sizes: Ints
    images: Ints
    weights: Floats
    usual: tuple[Floats, ...] = ()


def fit_coefficients(rows: ControlRows, folds: Ints) -> tuple[Floats, Floats]:
    """By how much to multiply predictions, (n_folds, n_metrics), and the variance they explain.

    Size, baseline and prediction are fitted together. The coefficient of a fold comes from the rows
    of the images outside it; the share of the variance (n_metrics,), beyond what size, baseline
    and the usual losses explain, is that of all rows, adjusted for the coefficient.

    Args:
        rows: to be fitted.
        folds: of each row, (n_rows,), from 0 to `N_FOLDS` - 1.
    """
    n_rows, n_metrics = rows.outcomes.shape
    sizes = rows.sizes[:, None] / max(int(rows.sizes.max()), 1)
    powers = sizes ** np.arange(1, min(3, len(np.unique(rows.sizes))) + 1)
    coefficients, explained = np.zeros((N_FOLDS, n_metrics)), np.zeros(n_metrics)
    roots = np.sqrt(rows.weights / rows.weights.mean())[:, None]
    for metric in range(n_metrics):
        ahead = rows.ahead[:, metric, None]
        usual = [column[:, metric, None] for column in rows.usual]
        plain = np.concatenate([powers, ahead, ahead * sizes, *usual], axis=1)
        predicted = rows.predicted[:, metric]
        if not predicted.any():
            continue
        plain = roots * plain
        design = np.concatenate([plain, roots * predicted[:, None]], axis=1)
        target = roots[:, 0] * rows.outcomes[:, metric]
        grams = np.stack([design[folds == f].T @ design[folds == f] for f in range(N_FOLDS)])
        sides = np.stack([design[folds == f].T @ target[folds == f] for f in range(N_FOLDS)])
        for fold in range(N_FOLDS):
            gram, side = grams.sum(axis=0) - grams[fold], sides.sum(axis=0) - sides[fold]
            coefficients[fold, metric] = -(np.linalg.pinv(gram, hermitian=True) @ side)[-1]
        lost = [_unexplained(target, columns) for columns in (plain, design)]
        free = max(n_rows - design.shape[1], 1)
        ratio = lost[1] / max(lost[0], np.finfo(float).tiny) * (free + 1) / free
        explained[metric] = max(1 - ratio, 0.0) if lost[0] > 0 else 0.0
    return coefficients, explained


def _unexplained(target: Floats, columns: Floats) -> float:
    gram = columns.T @ columns
    residuals = target - columns @ (np.linalg.pinv(gram, hermitian=True) @ (columns.T @ target))
    return float(residuals @ residuals)


@dataclass(frozen=True, kw_only=True)
class AdditiveGame:
    """The additive game that was added to the outcomes of some metrics, image by image.

    Attributes:
        losses: of the table's images for these metrics, (n_images, n_players, n_metrics).
        factors: coefficient of each, times what outcomes were multiplied by, (n_images, n_metrics).
        rates: how often a row is about the image, (n_images,), adding up to one.
        images: positions in the pool, (n_images,).
        left: the share of the pool that the table leaves out.
    """

    losses: NDArray[np.float32]
    factors: Floats
    rates: Floats
    images: Ints
    left: float

    def means(self) -> Floats:
        """The semivalues of that game, (n_players, n_metrics)."""
        weights = self.rates[:, None] * self.factors
        means: Floats = np.einsum("xpm,xm->pm", self.losses, weights)
        return means

    def numbers(self, players: slice) -> tuple[Ints, Floats]:
        """What images add to the means of some players, beyond a mean image's part of them.

        Returns:
            Images (n_images,), and numbers (n_images, n_players_asked, n_metrics).
        """
        parts: Floats = self.losses[:, players] * self.factors[:, None, :]
        parts -= np.einsum("x,xpm->pm", self.rates, parts)
        parts *= self.rates[:, None, None]
        return self.images, parts

    def spread(self) -> Floats:
        """The variance of the means over images like these, (n_players, n_metrics)."""
        n_images, n_players, n_metrics = self.losses.shape
        step = max(1, _BLOCK // max(n_images * n_metrics, 1))
        variances = np.zeros((n_players, n_metrics))
        for first in range(0, n_players, step):
            players = slice(first, first + step)
            variances[players] = (self.numbers(players)[1] ** 2).sum(axis=0)
        return variances


def additive_game(
    table: ControlTable,
    pool: ImagePool,
    rows: ControlRows,
    *,
    metrics: NDArray[np.intp],
    images: NDArray[np.intp] | None,
    weight: float,
) -> tuple[AdditiveGame, Floats, Floats]:
    """What to add to the outcomes of metrics that look at the same images.

    Args:
        table: of single removals.
        pool: how often images are drawn for rows.
        rows: of these images and metrics; outcomes and predictions already weighed.
        metrics: columns of the game's metrics.
        images: those that they look at; None for all.
        weight: what outcomes were multiplied by.

    Returns:
        The additive game; what is added, (n_rows, n_metrics); and the mean coefficients and the
        shares of variance explained, (2, n_metrics).
    """
    place = table.places(len(pool))
    folds = np.where(place >= 0, place % N_FOLDS, 0)
    coefficients, explained = fit_coefficients(rows, folds[rows.images])
    counted = slice(None) if images is None else images
    rates = np.zeros(len(pool))
    rates[counted] = pool.probabilities[counted]
    kept = np.flatnonzero(rates[table.images] > 0)
    shown = table.images[kept]
    game = AdditiveGame(
        losses=table.losses[kept][:, :, metrics],
        factors=coefficients[folds[shown]] * weight,
        rates=rates[shown] / rates.sum(),
        images=shown,
        left=1 - len(table) / len(pool),
    )
    added = coefficients[folds[rows.images]] * rows.predicted
    return game, added, np.stack([coefficients.mean(axis=0), explained])


def shrink(shares: Floats, variances: Floats) -> tuple[Floats, Floats]:
    """Corrections drawn towards zero as far as their errors say that they are noise.

    An empirical Bayes estimate, (n_players, n_metrics): the table alone is nearly right, and few
    rows would add more noise than they remove error. No value is moved by more than its standard
    error (Efron & Morris 1971, limited translation), so a player unlike the others stays so.

    Args:
        shares: what the rows say beyond the table, (n_players, n_metrics).
        variances: of these.

    Returns:
        By how much to multiply each share, and the variance of what results.
    """
    if len(shares) < _LEAST_PLAYERS:
        return np.ones_like(shares), variances.copy()
    known = np.isfinite(variances)
    safe = np.where(known, variances, 0.0)
    signal = np.maximum((np.where(known, shares, 0.0) ** 2 - safe).mean(axis=0), 0.0)
    total = signal + safe
    kept = np.divide(signal, total, out=np.ones_like(total), where=total > 0)
    error, distance = np.sqrt(safe), np.abs(shares)
    far = (1 - kept) * distance > _MOST_MOVED * error
    limited = 1 - np.divide(_MOST_MOVED * error, distance, out=np.ones_like(error), where=far)
    factors = np.where(far, limited, kept)
    return np.where(known, factors, 1.0), np.where(known & ~far, kept * safe, variances)
