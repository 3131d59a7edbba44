"""How far a mean of samples may lie from what it estimates."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ErrorsOver = Literal["rows", "images"]
"""What a regression's errors are stated over: its rows, or images like these."""

BERNSTEIN = "empirical Bernstein (Maurer & Pontil 2009)"
"""How reports name intervals of `bernstein_radius`."""

_MANY = 200


def log_term(
    counts: NDArray[np.int64], *, n_players: int, delta: float, union_bound: bool
) -> NDArray[np.float64]:
    """L of the empirical Bernstein radius, shape (n_players,).

    log(3 / delta) serves both sides of one player's interval at one look: a third each for the
    lower tail, the upper tail and the variance. The union bound spreads delta over all players and
    looks t = 1, 2, ..., since 6 / (pi t)^2 adds up to one: log(3 n pi^2 t^2 / (6 delta)).
    """
    if not union_bound:
        return np.full(len(counts), math.log(3 / delta))
    looks = np.maximum(counts, 1).astype(np.float64)
    spread: NDArray[np.float64] = np.log(3 * n_players * (math.pi * looks) ** 2 / (6 * delta))
    return spread


def bernstein_radius(
    variances: NDArray[np.float64],
    counts: NDArray[np.int64],
    ranges: NDArray[np.float64],
    log_terms: NDArray[np.float64],
) -> NDArray[np.float64]:
    """sqrt(2 s^2 L / t) + 7 R L / (3 (t - 1)), infinite below two samples.

    Maurer & Pontil 2009, Theorem 4, with L from `log_term`.

    Args:
        variances: unbiased, (n_players, n_metrics), in squared units of the metric.
        counts: samples t, (n_players,).
        ranges: R, the width of what one sample can be, (n_metrics,).
        log_terms: L, (n_players,).
    """
    radius = np.full(variances.shape, np.inf)
    enough = counts > 1
    t = counts[enough, None].astype(np.float64)
    log = log_terms[enough, None]
    radius[enough] = np.sqrt(2 * variances[enough] * log / t) + 7 * ranges * log / (3 * (t - 1))
    return radius


def around(
    values: NDArray[np.float64], radius: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lower and the upper bound."""
    return values - radius, values + radius


def within_range(
    low: NDArray[np.float64], high: NDArray[np.float64], ranges: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Finite bounds drawn in to [-R/2, R/2], which hold every marginal and so its mean.

    Args:
        low: lower bounds, (n_players, n_metrics).
        high: upper bounds.
        ranges: R, the width of what one sample can be, (n_metrics,).
    """
    return (
        np.where(np.isfinite(low), np.maximum(low, -ranges / 2), low),
        np.where(np.isfinite(high), np.minimum(high, ranges / 2), high),
    )


@lru_cache(maxsize=256)
def student_quantile(confidence: float, degrees: int) -> float:
    """The t with P(|T| < t) = confidence, for Student's T of `degrees` >= 1 degrees of freedom.

    Abramowitz & Stegun 26.7.3-4 by bisection; beyond 200 degrees the expansion 26.7.5.
    """
    if degrees > _MANY:
        z = NormalDist().inv_cdf(0.5 + confidence / 2)
        first = (z**3 + z) / (4 * degrees)
        return z + first + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        if _student_within(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan(low)


def _student_within(angle: float, degrees: int) -> float:
    """P(|T| < t) where tan(angle) = t / sqrt(degrees)."""
    odd = degrees % 2
    sine, cosine = math.sin(angle), math.cos(angle)
    term = cosine if odd else 1.0
    total = 0.0
    for power in range(odd, degrees - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    if odd:
        return 2 / math.pi * (angle + sine * total)
    return sine * total
