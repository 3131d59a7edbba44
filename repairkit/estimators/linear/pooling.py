"""Empirical Bayes: the total of sums that are known with errors, by how the true ones go together.

A player has a sum for each class of sizes, and for each of these one by an auxiliary metric, which
does not count but tells of the one that does. How the true sums vary and go together is learnt from
all players; the likeliest total given all sums of a player is then its value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.estimators.linear.fits import Fit

Floats = NDArray[np.float64]

BORROWED = "; with what soft hits tell of hits, as the two go together over all filters"
"""What the description of an interval says where an auxiliary metric helped."""
_UNSURE = 2.0  # standard errors
_SCALES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_STEPS = 60
_TINY = 1e-12
_MOST_ALIKE = 0.999


def pool_fits(
    fits: Sequence[Fit], auxiliaries: Sequence[int], *, alone: bool = True
) -> tuple[Floats, Floats, Floats]:
    """Totals over classes of sizes for every metric, with what its auxiliary metric tells of them.

    Args:
        fits: of the classes, each with the sums of its sizes as shares.
        auxiliaries: see `core.game.GameFacts`.
        alone: whether metrics without an auxiliary one are pooled; if not, there must be a single
            class, and they stay as they are.

    Returns:
        Totals, the part of their errors that other rows would draw anew, and their errors; of each
        (n_players, n_metrics). Zeros for a metric of which a class knows nothing.
    """
    sums = np.stack([fit.shares for fit in fits])
    errors = np.stack([fit.errors for fit in fits])
    totals, noise, wrong = np.zeros((3, *sums.shape[1:]))
    if not alone:
        totals[...], noise[...], wrong[...] = sums[0], errors[0], errors[0]
    known = np.array([np.isfinite(errors[:, :, m]).any(axis=1).all() for m in range(sums.shape[2])])
    for metric in np.flatnonzero(known).tolist():
        columns, alike = [metric], np.zeros(len(fits))
        other = auxiliaries[metric] if len(auxiliaries) else -1
        if other >= 0 and known[other]:
            columns.append(other)
            alike = np.array([fit.correlations[metric] for fit in fits])
        elif not alone:
            continue
        both, off = (np.concatenate([part[:, :, c] for c in columns]) for part in (sums, errors))
        totals[:, metric], noise[:, metric], wrong[:, metric] = pool(both, off, alike)
    return totals, noise, wrong


def pool(
    sums: Floats, errors: Floats, alike: Floats | None = None
) -> tuple[Floats, Floats, Floats]:
    """The total of several sums with errors, by how the true ones vary and go together.

    The sums of a player are taken to have a normal law around zero with the covariance c S. S is
    the same for all players, and c, one of nine numbers, is small for the many that do little and
    large for the few that do much; how many have which is fitted to all (Urbut, Wang, Carbonetto &
    Stephens 2019, "Flexible statistical methods for estimating and testing effects in genomic
    studies with multiple conditions"). The total's mean and spread given the sums follow.

    Args:
        sums: (n_classes, n_players), of which each row adds up to zero; behind these, where there
            is an auxiliary metric, the same by it, which do not count in the total.
        errors: of the same shape; infinite for a player of which a class knows nothing.
        alike: (n_classes,) how the errors of a class and of the same by the auxiliary metric are
            correlated. Errors of different classes are independent. All sums count if None.

    Returns:
        Totals, which add up to zero; the part of their errors that other rows would draw anew; and
        their errors; of each (n_players,).
    """
    n_sums, n_players = sums.shape
    alike = np.zeros(n_sums) if alike is None else np.clip(alike, -_MOST_ALIKE, _MOST_ALIKE)
    counts = np.arange(n_sums) < len(alike)
    finite = np.isfinite(errors)
    known = np.where(finite, errors, 0.0)
    variances = (known**2).sum(axis=1) / np.maximum(finite.sum(axis=1), 1)
    if not variances[counts].any():
        return sums[counts].sum(axis=0), np.zeros(n_players), np.zeros(n_players)
    # Every sum in units of its error, so that units play no part.
    units = np.sqrt(np.maximum(variances, _TINY * sums.var(axis=1)))
    units[units == 0] = 1.0
    counted, sums, known = units * counts, sums / units[:, None], known / units[:, None]
    noise = _noise(alike, n_sums)
    covariance = np.atleast_2d(np.cov(sums, bias=True))
    spread = _spread(_sure_part(covariance, noise, n_players), noise, n_players)
    if spread.any():
        laws = [_given(scale * spread, noise, counted) for scale in _SCALES]
        chances = _chances(sums, laws)
        weights = np.stack([law.weights for law in laws])
        left = np.array([(w - counted) @ (c * spread) @ (w - counted)
                         for c, w in zip(_SCALES, weights, strict=True)])  # fmt: skip
    else:
        chances, left = np.ones((n_players, 1)), np.zeros(1)
        weights = counted[None] * (np.arange(n_sums) == 0)
    each = sums.T @ weights.T
    totals = (chances * each).sum(axis=1)
    drawn = np.stack([((w := weight[:, None] * known) * (noise @ w)).sum(axis=0)
                      for weight in weights], axis=1)  # fmt: skip
    wrong = drawn + left + (each - totals[:, None]) ** 2
    unknown = np.where(finite.all(axis=0), 0.0, np.inf)
    of_rows, of_all = ((chances * part).sum(axis=1) + unknown for part in (drawn, wrong))
    return totals - totals.mean(), np.sqrt(of_rows), np.sqrt(of_all)


def _noise(alike: Floats, n_sums: int) -> Floats:
    """The covariance of the errors of sums in units of their errors, (n_sums, n_sums)."""
    noise = np.eye(n_sums)
    if n_sums > len(alike):
        classes = np.arange(len(alike))
        noise[classes, len(alike) + classes] = noise[len(alike) + classes, classes] = alike
    return noise


@dataclass(frozen=True)
class _Law:
    """Sums of one law, seen with noise: the total's `weights`, (n_sums,), and the likelihood.

    `precision` (n_sums, n_sums) and `log_volume` are those of the sums as they are seen.
    """

    weights: Floats
    precision: Floats
    log_volume: float

    def likelihoods(self, sums: Floats) -> Floats:
        """Logarithms, (n_players,)."""
        logs: Floats = -0.5 * (self.log_volume + (sums * (self.precision @ sums)).sum(axis=0))
        return logs


def _given(spread: Floats, noise: Floats, counted: Floats) -> _Law:
    seen = spread + noise
    precision: Floats = np.linalg.inv(seen).astype(np.float64)
    weights = precision @ (spread @ counted)
    return _Law(weights, precision, float(np.linalg.slogdet(seen)[1]))


def _chances(sums: Floats, laws: list[_Law]) -> Floats:
    """How likely each law is for each player, (n_players, n_laws): expectation-maximisation."""
    logs = np.stack([law.likelihoods(sums) for law in laws], axis=1)
    likely = np.exp(logs - logs.max(axis=1, keepdims=True))
    shares: Floats = np.full(len(laws), 1 / len(laws))
    chances: Floats = likely
    for _ in range(_STEPS):
        chances = likely * shares
        chances /= chances.sum(axis=1, keepdims=True)
        shares = chances.mean(axis=0)
    return chances


def _sure_part(covariance: Floats, noise: Floats, n_players: int) -> Floats:
    """A covariance of sums, those of two true sums drawn to zero where chance could make them.

    A class of much noise seems to go with the sums up to the collapse by chance, and what it then
    adds to every total is large. Each covariance c beyond that of the noise, with the standard
    error e (of players that do not go together), becomes c (1 - 4 e^2 / c^2), and zero within two
    standard errors (James & Stein 1961, "Estimation with quadratic loss"; the factor 4 in place of
    1 is for safety).
    """
    variances = np.diag(covariance)
    together = noise - np.diag(np.diag(noise))
    unsure = _UNSURE**2 * np.outer(variances, variances) / n_players
    beyond = covariance - together
    squares = beyond**2
    kept = np.divide(squares - unsure, squares, out=np.zeros_like(squares), where=squares > unsure)
    np.fill_diagonal(kept, 1.0)
    sure: Floats = beyond * kept + together
    return sure


def _spread(covariance: Floats, noise: Floats, n_players: int) -> Floats:
    """The covariance of the true sums, from that of the estimated ones and of their errors.

    Of its directions those count that stand out from noise, with what noise adds to them taken off
    (Baik & Silverstein 2006, "Eigenvalues of large sample covariance matrices of spiked population
    models").
    """
    sizes, axes = np.linalg.eigh(noise)
    root, inverse = ((axes * sizes**power) @ axes.T for power in (0.5, -0.5))
    values, vectors = np.linalg.eigh(inverse @ covariance @ inverse)
    share = len(noise) / n_players
    above = values - 1 - share
    width = np.sqrt(np.maximum(above**2 - 4 * share, 0.0))
    kept = np.where(values > (1 + np.sqrt(share)) ** 2, (above + width) / 2, 0.0)
    spread: Floats = root @ (vectors * kept) @ vectors.T @ root
    return spread
