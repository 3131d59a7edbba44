"""How well estimated values agree with the true ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from repairkit.estimators.samples import rank_correlation

TOP = 20


def shared(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """The share of the `TOP` highest that are so by both."""
    highest = [set(np.argsort(-values, kind="stable")[:TOP].tolist()) for values in (first, second)]
    return len(highest[0] & highest[1]) / len(highest[0])


def correlations(first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[float, float]:
    """Of the values and of their ranks."""
    return float(np.corrcoef(first, second)[0, 1]), rank_correlation(first, second)


def judge(values: NDArray[np.float64], true: NDArray[np.float64]) -> tuple[float, ...]:
    """Precision among the highest and the lowest, rank correlation, R2."""
    r2 = 1 - float(((values - true) ** 2).sum() / ((true - true.mean()) ** 2).sum())
    return shared(values, true), shared(-values, -true), correlations(values, true)[1], r2
