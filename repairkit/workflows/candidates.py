"""Who may be frozen: filters that their confidence bounds say do harm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_CANDIDATES = 64


@dataclass(frozen=True)
class Candidates:
    """Players, the most surely harmful first, and how many were looked at."""

    players: NDArray[np.intp]
    n_scored: int
    how: str


def find_candidates(
    values: NDArray[np.float64],
    ci_low: NDArray[np.float64],
    ci_high: NDArray[np.float64],
    signs: int | Sequence[int],
) -> Candidates:
    """Those whose interval lies on the harmful side for one metric at least.

    An estimator that states no errors (leave-one-out of few images, norms, random scores) has no
    bounds; then whoever has a harmful value is a candidate.

    Args:
        values: shape (n_players, n_metrics); NaN where a filter was not scored.
        ci_low: limits of the intervals, of the same shape.
        ci_high: of the same shape.
        signs: 1 where a negative value is harm, -1 where a positive one is; one for each metric,
            or one for all.
    """
    turn = np.broadcast_to(np.asarray(signs), values.shape)
    good = turn * values
    worst = turn * np.where(turn > 0, ci_high, ci_low)
    bounded = bool(np.isfinite(worst).any())
    with np.errstate(invalid="ignore"):
        harmful = (worst < 0 if bounded else good < 0).any(axis=1)
    key = np.where(np.isnan(good), np.inf, good)
    if bounded:  # how many standard errors below nothing
        width = np.abs(ci_high - ci_low)
        surely = np.isfinite(width) & (width > 0)
        far = np.where(good == 0, 0.0, np.copysign(np.inf, good))
        scaled = np.divide(good, width, out=far, where=surely)
        key = np.where(np.isnan(scaled), np.inf, scaled)
    players = np.flatnonzero(harmful)
    ranked = players[np.argsort(key[players].min(axis=1), kind="stable")]
    how = "the 95 % interval lies on the harmful side" if bounded else "the value is harmful"
    return Candidates(ranked[:MOST_CANDIDATES], len(values), how)
