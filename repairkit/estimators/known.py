"""What scores say surely, all statements together, and what another seed would repeat.

Bounds that hold for all players together carry every statement at once: which values lie above or
below zero, and for which k the top k are apart from the rest.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.core import scores as core

Floats = NDArray[np.float64]
_N_SCALES = 24
_N_STEPS = 200
_N_DRAWS = 256
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
    Each draw gets the errors of another run. Where values count images, so do the draws: then ties
    are many, and all runs break them alike, by column. A player without an error keeps its value.

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
    moving = errors > 0
    if not moving.any():
        return float(top_k)
    scales, shares = _posterior(values[moving], errors[moving])
    errors, step = errors[moving], _step(values)
    shrink = scales**2 / (scales**2 + errors[:, None] ** 2)
    ours = np.zeros(len(values), bool)
    ours[np.argsort(-values, kind="stable")[:top_k]] = True
    cumulated, common, again = shares.cumsum(axis=1), 0, values.copy()
    for _ in range(_N_DRAWS):
        picks = (rng.random((len(errors), 1)) > cumulated).sum(axis=1).clip(max=shares.shape[1] - 1)
        factor = shrink[np.arange(len(errors)), picks]
        spread = errors * np.sqrt(1 + factor)  # of the truth, and of another estimate of it
        again[moving] = factor * values[moving] + spread * rng.standard_normal(len(errors))
        drawn = np.round(again / step) if step else again
        common += int(ours[np.argsort(-drawn, kind="stable")[:top_k]].sum())
    return common / _N_DRAWS


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
    highest = logs.max(axis=1, keepdims=True)
    given = np.exp(logs - highest)
    weights = np.full(len(scales), 1 / len(scales))
    for _ in range(_N_STEPS):
        shares = weights * given
        shares /= shares.sum(axis=1, keepdims=True)
        better = np.maximum(shares.mean(axis=0), _LEAST_WEIGHT)
        done = np.abs(better - weights).max() < _LEAST_CHANGE
        weights = better
        if done:
            break
    shares = weights * given
    total = shares.sum(axis=1, keepdims=True)
    return shares / total, float((np.log(total) + highest).sum())
