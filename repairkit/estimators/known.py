"""What scores say surely, all statements together, and what another seed would repeat.

Bounds that hold for all players together carry every statement at once: which values lie above or
below zero, and for which k the top k are apart from the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core import scores as core

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_N_SCALES = 24
_N_STEPS = 200
_N_DRAWS = 256
_FEWEST_IMAGES = 8
_N_SIDES = 13
_LEAST_WEIGHT = 1e-12  # of a part of the prior: a value that no other part explains needs it
_ROUNDING = 1e-9  # of the largest value, within which two are the same
_LEAST_CHANGE = 1e-6  # of a weight of the prior, below which the fit has ended


@dataclass(frozen=True, kw_only=True)
class Known:
    """What holds with the scores' confidence for all players together.

    Attributes:
        above: players whose value is surely above zero.
        below: players whose value is surely below zero.
        settled_highest: every k below n_players for which the k highest are surely the k highest.
        settled_lowest: the same for the lowest.
    """

    above: int
    below: int
    settled_highest: tuple[int, ...]
    settled_lowest: tuple[int, ...]


def what_is_known(scores: core.Scores) -> Known | None:
    """What the bounds of the first metric say; None where they hold for each player alone."""
    if scores.joint is None:
        return None
    low, high = scores.joint.T
    return Known(
        above=int((low > 0).sum()),
        below=int((high < 0).sum()),
        settled_highest=_settled(low, high, scores.values[:, 0]),
        settled_lowest=_settled(-high, -low, -scores.values[:, 0]),
    )


def _settled(low: Floats, high: Floats, values: Floats) -> tuple[int, ...]:
    """Each k for which every low of the top k lies above every high of the rest."""
    order = np.argsort(-values, kind="stable")
    floors = np.minimum.accumulate(low[order])[:-1]
    ceilings = np.maximum.accumulate(high[order][::-1])[::-1][1:]
    return tuple((np.flatnonzero(floors > ceilings) + 1).tolist())


def times_the_budget(scores: core.Scores, top_k: int, *, highest: bool = True) -> float | None:
    """How many times the samples would settle the top k, if the values were as estimated.

    Bounds shrink with the root of the samples. None where no bounds hold together, where a bound
    is infinite, or where the k-th value equals the next; 1 or less where the top k are settled.
    """
    if scores.joint is None or not 0 < top_k < len(scores.values):
        return None
    values = scores.values[:, 0] * (1.0 if highest else -1.0)
    radius = (scores.joint[:, 1] - scores.joint[:, 0]) / 2
    order = np.argsort(-values, kind="stable")
    top, rest = order[:top_k], order[top_k:]
    gaps = values[top][:, None] - values[rest]
    widths = radius[top][:, None] + radius[rest]
    if not np.isfinite(widths).all() or (gaps <= 0).any():
        return None
    return float(((widths / gaps) ** 2).max())


def expected_overlap(
    values: Floats, std_errors: Floats, top_k: int, rng: np.random.Generator
) -> float:
    """How many of the top k another run of the same cost would have among its own, on average.

    The true values are drawn from what the estimates leave open, under a prior that is fitted to
    all estimates (Stephens 2017, "False discovery rates: a new deal", Biostatistics 18): a mixture
    of normal laws around zero, of the values or of their ratios to the errors, whichever is
    likelier. Rare events give ratios: who is seldom decisive has a small value and a small error.
    Each draw gets the errors of another run. A player without an error keeps its value.

    Where values count images, as those of leave-one-out do, few images are lost or won, and a
    normal law would be wrong. Values and errors then tell both counts of every player, and the
    counts of another run are drawn from binomial laws (see `CountedImages`). Ties are many, and
    all runs break them alike, by column.

    Args:
        values: estimates, (n_players,).
        std_errors: of the estimates, (n_players,); a player with an infinite one is unknown.
        top_k: at least 1, at most n_players.
        rng: for the draws.

    Returns:
        A number between 0 and `top_k`.
    """
    known = np.isfinite(std_errors)
    if known.sum() < top_k:
        return top_k**2 / len(values)
    values, errors = values[known], std_errors[known]
    counted = CountedImages.of(values, errors)
    if counted is not None:
        return _common(values, counted.of_other_images(rng), top_k)
    moving = errors > 0
    if not moving.any():
        return float(top_k)
    scales, shares = _posterior(values[moving], errors[moving])
    errors, step = errors[moving], _step(values)
    shrink = scales**2 / (scales**2 + errors[:, None] ** 2)
    cumulated, last = shares.cumsum(axis=1), shares.shape[1] - 1

    def draws() -> Iterator[Floats]:
        again = values.copy()
        for _ in range(_N_DRAWS):
            picks = (rng.random((len(errors), 1)) > cumulated).sum(axis=1).clip(max=last)
            factor = shrink[np.arange(len(errors)), picks]
            spread = errors * np.sqrt(1 + factor)  # of the truth, and of another estimate of it
            again[moving] = factor * values[moving] + spread * rng.standard_normal(len(errors))
            yield np.round(again / step) if step else again

    return _common(values, draws(), top_k)


def _common(values: Floats, draws: Iterator[Floats], top_k: int) -> float:
    """How many of the top k are among the top k of a draw, on average."""
    ours, common = np.zeros(len(values), bool), 0
    ours[np.argsort(-values, kind="stable")[:top_k]] = True
    for drawn in draws:
        common += int(ours[np.argsort(-drawn, kind="stable")[:top_k]].sum())
    return common / _N_DRAWS


@dataclass(frozen=True)
class CountedImages:
    """Of `n_images` each player's removal loses `lost` (n_players,) and wins `won` (n_players,)."""

    n_images: int
    lost: Ints
    won: Ints

    @classmethod
    def of(cls, values: Floats, errors: Floats) -> CountedImages | None:
        """From means of -1, 0 and 1 over images, and their standard errors; None for others."""
        step = _step(values)
        n = round(1 / step) if step else 0
        if n < _FEWEST_IMAGES:
            return None
        net = values * n
        # The variance of an image, divided by the number of images, is the squared error.
        changed = errors**2 * n * (n - 1) + net**2 / n
        lost, won = (changed + net) / 2, (changed - net) / 2
        both = np.round(np.stack([lost, won]))
        if not np.allclose(both, [lost, won], atol=0.01) or (both < 0).any():
            return None
        if (both.sum(axis=0) > n).any():
            return None
        return cls(n, *both.astype(np.int64))

    def of_other_images(self, rng: np.random.Generator) -> Iterator[Floats]:
        """What each player's removal would lose, less what it would win, of as many other images.

        The chance that an image changes and the chance that a changed one is lost have a prior: a
        mixture over a grid of both, which is fitted to all players.
        """
        counts = np.stack([self.lost + self.won, self.lost])
        pairs, numbers = np.unique(counts, axis=1, return_inverse=True)
        players, (changed, lost) = numbers.ravel(), pairs[:, :, None]
        most = (changed.max() + 1) / (self.n_images + 2)
        rates = np.geomspace(0.1 / self.n_images, most, _N_SCALES).repeat(_N_SIDES)
        sides = np.tile((np.arange(_N_SIDES) + 0.5) / _N_SIDES, _N_SCALES)
        logs = changed * np.log(rates) + (self.n_images - changed) * np.log1p(-rates)
        logs += lost * np.log(sides) + (changed - lost) * np.log1p(-sides)
        shares, _ = _mixture(logs, np.bincount(players))
        parts = np.empty((_N_DRAWS, len(players)), np.intp)
        for pair, chances in enumerate(shares):
            alike = np.flatnonzero(players == pair)
            parts[:, alike] = rng.choice(len(rates), (_N_DRAWS, len(alike)), p=chances)
        for part in parts:
            again = rng.binomial(self.n_images, rates[part])
            net = 2 * rng.binomial(again, sides[part]) - again
            yield net.astype(np.float64)


def _step(values: Floats) -> float:
    """The step of values that are whole multiples of one, with ties; 0 for others."""
    distinct = np.unique(np.append(values, 0.0))
    gaps = np.diff(distinct)
    gaps = gaps[gaps > _ROUNDING * np.abs(distinct).max()]
    if not len(gaps) or len(distinct) > len(values):
        return 0.0
    multiples = values / gaps.min()
    return float(gaps.min()) if np.allclose(multiples, np.round(multiples), atol=0.01) else 0.0


def _posterior(values: Floats, errors: Floats) -> tuple[Floats, Floats]:
    """Each player's scales of the prior and their probabilities, both (n_players, n_scales)."""
    ones, fits = np.ones_like(errors), []
    for unit in (ones, errors):
        scales = _scales(values / unit, errors / unit)
        shares, likelihood = _fit(values / unit, errors / unit, scales)
        fits.append((likelihood - float(np.log(unit).sum()), scales * unit[:, None], shares))
    _, scales, shares = max(fits, key=lambda fit: fit[0])
    return scales, shares


def _scales(values: Floats, errors: Floats) -> Floats:
    """Standard deviations of the prior's parts: zero, and a grid up to twice the largest value."""
    least = float(np.median(errors)) / 10
    most = max(2 * float(np.sqrt(np.maximum(values**2 - errors**2, 0).max())), 8 * least)
    return np.concatenate([[0.0], np.geomspace(least, most, _N_SCALES)])


def _fit(values: Floats, errors: Floats, scales: Floats) -> tuple[Floats, float]:
    """Fit the weights of the prior's parts by expectation and maximisation.

    Returns:
        Each player's probabilities of the parts, (n_players, n_scales), and the log likelihood of
        the values but for a constant.
    """
    variances = scales**2 + errors[:, None] ** 2
    logs = -0.5 * (values[:, None] ** 2 / variances + np.log(variances))
    return _mixture(logs, np.ones(len(values)))


def _mixture(logs: Floats, times: NDArray[Any]) -> tuple[Floats, float]:
    """Fit the weights of a mixture's parts to players that occur so many times.

    Args:
        logs: log likelihoods of the players' values, (n_players, n_parts).
        times: (n_players,).

    Returns:
        As `_fit`.
    """
    highest = logs.max(axis=1, keepdims=True)
    given = np.exp(logs - highest)
    weights = np.full(logs.shape[1], 1 / logs.shape[1])
    for _ in range(_N_STEPS):
        shares = weights * given
        shares /= shares.sum(axis=1, keepdims=True)
        better = np.maximum(times @ shares / times.sum(), _LEAST_WEIGHT)
        done = np.abs(better - weights).max() < _LEAST_CHANGE
        weights = better
        if done:
            break
    shares = weights * given
    total = shares.sum(axis=1, keepdims=True)
    return shares / total, float(times @ (np.log(total) + highest)[:, 0])
