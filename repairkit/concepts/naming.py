"""Which units stand out among random ones: p values from a control, and the share of false names.

The p value of a unit is the share of control units that score at least as high, itself counted in.
Such p values of several units, which share one control, may be given to the step-up procedure of
Benjamini & Hochberg (1995): it holds the expected share of false ones among those it names (Bates,
Candes, Lei, Romano & Sesia 2023, "Testing for outliers with conformal p-values", theorem 2). Where
all units are as random ones, every name is false, and then one is named at all with no more than
that probability.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def control_p_values(scores: Values, control: Values) -> Values:
    """The p value of each score, (n_units,).

    Args:
        scores: of the units, (n_units,).
        control: of random units, (n_control,).
    """
    ordered = np.sort(control)
    at_least = len(ordered) - np.searchsorted(ordered, scores, side="left")
    return np.asarray((1 + at_least) / (1 + len(ordered)))


def step_up(p_values: Values, level: float) -> NDArray[np.bool_]:
    """Which of some tests are named, so that at most `level` of the named are expected false."""
    n = len(p_values)
    order = np.argsort(p_values, kind="stable")
    fits = np.flatnonzero(p_values[order] <= level * np.arange(1, n + 1) / n)
    named = np.zeros(n, bool)
    if len(fits):
        named[order[: fits[-1] + 1]] = True
    return named


def adjusted(p_values: Values) -> Values:
    """The least level at which `step_up` names each test, (n_tests,)."""
    n = len(p_values)
    order = np.argsort(p_values, kind="stable")
    raised = p_values[order] * n / np.arange(1, n + 1)
    least = np.minimum.accumulate(raised[::-1])[::-1]
    result = np.empty(n)
    result[order] = np.minimum(least, 1.0)
    return result


def copies_for(n_units: int, *, level: float, most_units: int, most_copies: int) -> int:
    """How many random copies of a layer let one lone unit be named at `level`, within bounds.

    A unit above all of `copies x n_units` random ones has the p value 1 / (1 + copies x n_units),
    and must fall below level / n_units.
    """
    needed = int(np.ceil(1 / level))
    return max(1, min(needed, most_copies, most_units // max(n_units, 1)))
