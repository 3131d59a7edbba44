"""One value from two estimates: the regression's, and the mean of a player's marginals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from repairkit.estimators.statistics.moments import Moments

Floats = NDArray[np.float64]

LEFT_OUT = 0.1
_PRIOR = 4
_LEAST_SAMPLES = 4


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
) -> tuple[Floats, Floats]:
    """Weigh both by their precision; (values, standard errors), (n_players, n_metrics).

    A share of the regression's value is counted as an error of its own where it leaves out sizes
    behind the collapse; marginals are unbiased.

    Args:
        values: of the regression.
        errors: its standard errors; infinite where unknown.
        moments: of the marginals.
        left_out: the share; 0 where the regression draws all sizes.
    """
    own = np.hypot(errors, left_out * values)
    variances = pooled_variances(moments) / np.maximum(moments.counts, 1)[:, None]
    both = np.isfinite(own) & (moments.counts >= _LEAST_SAMPLES)[:, None]
    total = own**2 + variances
    weight = np.divide(own**2, total, out=np.zeros_like(total), where=both & (total > 0))
    together = (1 - weight) * values + weight * moments.means
    # Of independent estimates weighed by precision.
    spread = own * np.sqrt(1 - weight)
    return together, spread
