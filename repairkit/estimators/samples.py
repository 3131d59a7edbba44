"""Statistics of samples of values: running means, convergence, errors and intervals.

Running means and variances of many players (Welford 1962); the agreement of two halves of the
samples; intervals around a mean; and one value from two estimates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import NormalDist
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from repairkit.core.game import GameFacts

Floats = NDArray[np.float64]
BERNSTEIN = "empirical Bernstein (Maurer & Pontil 2009)"
"""How reports name intervals of `bernstein_radius`."""

LEFT_OUT = 0.1
_LEAST_PLAYERS = 3
_GROWTH = 1.5
_PRIOR = 4
_LEAST_SAMPLES = 4
_MANY = 200


@dataclass
class Moments:
    """Of the samples seen so far.

    `counts` (n_players,); `means` and `squares` (n_players, n_metrics), the latter the sums of
    squared deviations from the mean.
    """

    counts: NDArray[np.int64]
    means: Floats
    squares: Floats

    @classmethod
    def empty(cls, n_players: int, n_metrics: int) -> Moments:
        shape = (n_players, n_metrics)
        return cls(np.zeros(n_players, np.int64), np.zeros(shape), np.zeros(shape))

    def add(self, players: NDArray[np.int64], samples: Floats) -> None:
        """One sample each, (n_samples, n_metrics), of different players."""
        self.counts[players] += 1
        before = samples - self.means[players]
        self.means[players] += before / self.counts[players, None]
        self.squares[players] += before * (samples - self.means[players])

    def variances(self) -> Floats:
        """Unbiased variances of one sample, (n_players, n_metrics); infinite below two samples."""
        variances = np.full(self.squares.shape, np.inf)
        enough = self.counts > 1
        variances[enough] = self.squares[enough] / (self.counts[enough, None] - 1)
        return variances

    def std_errors(self) -> Floats:
        """Of the means, (n_players, n_metrics); infinite below two samples."""
        errors: Floats = np.sqrt(self.variances() / np.maximum(self.counts, 1)[:, None])
        return errors


def merge(some: Moments, others: Moments) -> Moments:
    """Of all samples of both (Chan, Golub & LeVeque 1983)."""
    counts = some.counts + others.counts
    total = np.maximum(counts, 1)[:, None]
    share = others.counts[:, None] / total
    gap = others.means - some.means
    squares = some.squares + others.squares + gap**2 * share * some.counts[:, None]
    return Moments(counts, some.means + gap * share, squares)


def rank_correlation(some: Floats, others: Floats) -> float:
    """Spearman's, of two estimates of the same players, (n_players,); ties share their mean rank.

    NaN below three players, or where all of one estimate are equal.
    """
    if len(some) < _LEAST_PLAYERS or np.ptp(some) == 0 or np.ptp(others) == 0:
        return float("nan")
    return float(np.corrcoef(_ranks(some), _ranks(others))[0, 1])


def _ranks(values: Floats) -> Floats:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Floats = (ends - (counts - 1) / 2)[place]
    return ranks


@dataclass
class HalvedSamples:
    """The first metric's samples, dealt to two sides in turn.

    `trace` holds, at numbers of samples that grow by half, the evaluations made by then and the
    rank correlation of the sides over the players that both know.
    """

    stored_as: ClassVar[str] = "Halves"

    sides: list[Moments]
    n_dealt: int = 0
    look_at: int = 4
    trace: list[tuple[int, float]] = field(default_factory=list)

    @classmethod
    def empty(cls, n_players: int) -> HalvedSamples:
        return cls([Moments.empty(n_players, 1), Moments.empty(n_players, 1)])

    def add(self, players: NDArray[np.int64], samples: Floats, n_evaluations: int) -> None:
        """Samples of different players, (n_samples, n_metrics), known after so many evaluations."""
        self.sides[self.n_dealt % 2].add(players, samples[:, :1])
        self.n_dealt += 1
        if self.n_dealt >= self.look_at:
            self.look_at = int(self.look_at * _GROWTH)
            self.trace.append((n_evaluations, self.correlation()))

    def correlation(self) -> float:
        """Of the sides now."""
        first, second = self.sides
        known = (first.counts > 0) & (second.counts > 0)
        return rank_correlation(first.means[known, 0], second.means[known, 0])

    def as_details(self) -> list[list[float]]:
        """The trace without correlations that are unknown, for a run's `details`."""
        return [[float(n), value] for n, value in self.trace if np.isfinite(value)]


def pooled_variances(moments: Moments) -> Floats:
    """Of one sample, (n_players, n_metrics), drawn towards the mean over sampled players.

    Marginals are mostly zeros, so that a few of them may show no variance at all.
    """
    degrees = np.maximum(moments.counts - 1, 0)[:, None]
    pooled = moments.squares.sum(axis=0) / max(int(degrees.sum()), 1)
    variances: Floats = (moments.squares + _PRIOR * pooled) / (degrees + _PRIOR)
    return variances


def combine(
    values: Floats, errors: Floats, moments: Moments, *, left_out: float = LEFT_OUT
) -> tuple[Floats, Floats, Floats]:
    """Weigh both by their precision; (values, standard errors, noise), (n_players, n_metrics).

    The noise is the part of the errors that another run would draw anew. A share of the
    regression's value counts as an additional error where the regression leaves out sizes behind
    the collapse; marginals are unbiased.

    Args:
        values: of the regression.
        errors: its standard errors; infinite where unknown.
        moments: of the marginals.
        left_out: the share; 0 where the regression draws all sizes.
    """
    of_regression = np.hypot(errors, left_out * values)
    variances = pooled_variances(moments) / np.maximum(moments.counts, 1)[:, None]
    both = np.isfinite(of_regression) & (moments.counts >= _LEAST_SAMPLES)[:, None]
    total = of_regression**2 + variances
    weight = np.divide(of_regression**2, total, out=np.zeros_like(total), where=both & (total > 0))
    together = (1 - weight) * values + weight * moments.means
    # Of independent estimates weighed by precision.
    spread = of_regression * np.sqrt(1 - weight)
    drawn = np.where(weight > 0, weight * np.sqrt(variances), 0.0)
    return together, spread, np.hypot((1 - weight) * errors, drawn)


def log_term(
    counts: NDArray[np.int64], *, n_players: int, delta: float, union_bound: bool
) -> Floats:
    """L of the empirical Bernstein radius, shape (n_players,).

    log(2 / delta) is the paper's: Maurer & Pontil's bound of one side, for one player at one look.
    log(3 / delta) serves both sides: a third each for the lower tail, the upper tail and the
    variance. The union bound spreads delta over all players and looks t = 1, 2, ..., since
    6 / (pi t)^2 adds up to one: log(3 n pi^2 t^2 / (6 delta)).
    """
    if not union_bound:
        return np.full(len(counts), math.log(2 / delta))
    looks = np.maximum(counts, 1).astype(np.float64)
    spread: Floats = np.log(3 * n_players * (math.pi * looks) ** 2 / (6 * delta))
    return spread


def bernstein_radius(
    variances: Floats,
    counts: NDArray[np.int64],
    ranges: Floats,
    log_terms: Floats,
) -> Floats:
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


def marginal_ranges(facts: GameFacts, value_range: float | None) -> Floats:
    """R per metric, (n_metrics,): twice the width of its values.

    Args:
        facts: of the game.
        value_range: R of the first metric, where it was given.
    """
    ranges = 2 * np.asarray(facts.score_widths, np.float64)
    if value_range is not None:
        ranges[0] = value_range
    return ranges


def moments_radius(moments: Moments, ranges: Floats, *, delta: float, union_bound: bool) -> Floats:
    """`bernstein_radius` of the means, (n_players, n_metrics); see there and at `log_term`."""
    counts = moments.counts
    logs = log_term(counts, n_players=len(counts), delta=delta, union_bound=union_bound)
    return bernstein_radius(moments.variances(), counts, ranges, logs)


def around(values: Floats, radius: Floats) -> tuple[Floats, Floats]:
    """The lower and the upper bound."""
    return values - radius, values + radius


def joint_bounds(
    values: Floats, errors: Floats, confidence: float, degrees: int | None = None
) -> Floats:
    """Bounds of the first metric, (n_players, 2): normal, or Student's t of these degrees.

    Args:
        values: shape (n_players, n_metrics).
        errors: standard errors, of the same shape.
        confidence: of each player's bounds; 1 - 0.05 / n_players serves all together at one look.
        degrees: of freedom.
    """
    quantile = (
        NormalDist().inv_cdf(0.5 + confidence / 2)
        if degrees is None
        else student_quantile(confidence, degrees)
    )
    return np.stack(around(values[:, 0], quantile * errors[:, 0]), axis=1)


def confidence_at_look(confidence: float, look: int, n_players: int) -> float:
    """Of each player's bounds at a look, so that all players and looks together have `confidence`.

    Look 1, 2, ... takes 6 / (pi look)^2 of the error (the sum is one), each player the same part.
    """
    return 1 - (1 - confidence) * 6 / (math.pi * look) ** 2 / n_players


def within_range(low: Floats, high: Floats, ranges: Floats) -> tuple[Floats, Floats]:
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


def draw_entropy(rng: np.random.Generator) -> tuple[int, int]:
    """Two numbers that a whole run shares; with the number of a draw they seed its generator."""
    first, second = rng.integers(2**63, size=2).tolist()
    return first, second
