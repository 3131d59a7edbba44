"""The cure that freezes nothing: class biases, which move the borders between classes.

With two classes that is a shift of the decision threshold. Whatever a repair is worth, it should be
worth more than this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Biases = NDArray[np.float64]
"""Shape (n_classes,), in log-odds; all 0 leaves the model as it is."""

Figure = Callable[[Biases], float]
"""What biases are worth; greater is better."""

Allowed = Callable[[Biases], bool]
"""Whether biases keep to all limits; asked only where they are worth more than the best so far."""

STEPS = (1.0, 0.5, 0.25, 0.125)
_PASSES = 3
_MOST = 6.0
_LEAST_GAIN = 1e-9


def fit_biases(
    figure: Figure,
    allowed: Allowed,
    n_classes: int,
    *,
    classes: Sequence[int],
    steps: Sequence[float] = STEPS,
    start: Biases | None = None,
) -> Biases:
    """The best biases within limits, class by class, with steps from coarse to fine.

    Args:
        figure: see `Figure`.
        allowed: see `Allowed`.
        n_classes: of the model.
        classes: whose biases are moved, in this order.
        steps: by how much; each is used until no move is better.
        start: biases to begin at where they, or half of them, are better than none.
    """
    best = np.zeros(n_classes)
    reached = figure(best)
    for tried in () if start is None else (start, start / 2):
        found = figure(tried)
        if found > reached + _LEAST_GAIN and allowed(tried):
            best, reached = tried, found
    for step in steps:
        for _ in range(_PASSES):
            before = best
            for number in classes:
                for move in (step, -step):
                    tried = best.copy()
                    tried[number] = np.clip(tried[number] + move, -_MOST, _MOST)
                    found = figure(tried)
                    if found > reached + _LEAST_GAIN and allowed(tried):
                        best, reached = tried, found
                        break
            if best is before:
                break
    return best


def best_shift(figure: Figure, allowed: Allowed, shifts: Sequence[float]) -> Biases:
    """The best shift of class 1 against class 0 within limits; of equals the smallest.

    Args:
        figure: see `Figure`.
        allowed: see `Allowed`.
        shifts: of the log-odds; 0 is always one of them.
    """
    best = np.zeros(2)
    reached = figure(best)
    for shift in sorted(shifts, key=abs):
        tried = np.array([0.0, shift])
        found = figure(tried)
        if found > reached + _LEAST_GAIN and allowed(tried):
            best, reached = tried, found
    return best
