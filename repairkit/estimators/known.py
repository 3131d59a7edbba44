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
    all estimates: a mixture of normal laws around zero (Stephens 2017, "False discovery rates: a
    new deal", Biostatistics 18, section 2). Each draw gets the errors of another run.

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
    if not (errors > 0).any():
        return float(top_k)
    scales = _scales(values, errors)
    errors = np.maximum(errors, scales[1] / 1e3)  # no error at all is as good as a tiny one
    weights, given = _fit(values, errors, scales)
    shares = weights * given
    shares /= shares.sum(axis=1, keepdims=True)
    shrink = scales**2 / (scales**2 + errors[:, None] ** 2)
    ours = np.zeros(len(values), bool)
    ours[np.argsort(-values, kind="stable")[:top_k]] = True
    cumulated, common = shares.cumsum(axis=1), 0
    for _ in range(_N_DRAWS):
        picks = (rng.random((len(values), 1)) > cumulated).sum(axis=1).clip(max=len(scales) - 1)
        factor = shrink[np.arange(len(values)), picks]
        truth = factor * values + np.sqrt(factor) * errors * rng.standard_normal(len(values))
        again = truth + errors * rng.standard_normal(len(values))
        common += int(ours[np.argsort(-again, kind="stable")[:top_k]].sum())
    return common / _N_DRAWS


def _scales(values: Floats, errors: Floats) -> Floats:
    """Standard deviations of the prior's parts: zero, and a grid up to twice the largest value."""
    least = errors[errors > 0].min() / 10
    most = max(2 * float(np.sqrt(np.maximum(values**2 - errors**2, 0).max())), 8 * least)
    return np.concatenate([[0.0], np.geomspace(least, most, _N_SCALES)])


def _fit(values: Floats, errors: Floats, scales: Floats) -> tuple[Floats, Floats]:
    """Weights of the prior's parts by expectation and maximisation, and each part's likelihoods."""
    variances = scales**2 + errors[:, None] ** 2
    logs = -0.5 * (values[:, None] ** 2 / variances + np.log(variances))
    given = np.exp(logs - logs.max(axis=1, keepdims=True))
    weights = np.full(len(scales), 1 / len(scales))
    for _ in range(_N_STEPS):
        shares = weights * given
        shares /= shares.sum(axis=1, keepdims=True)
        better = np.maximum(shares.mean(axis=0), _LEAST_WEIGHT)
        done = np.abs(better - weights).max() < _LEAST_CHANGE
        weights = better
        if done:
            break
    return weights, given
