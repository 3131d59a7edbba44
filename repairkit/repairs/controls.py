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

_PASSES = 2
_LEAST_GAIN = 1e-12


def fit_biases(
    judge: Callable[[Biases], tuple[float, float | None]],
    n_classes: int,
    *,
    classes: Sequence[int],
    shifts: Sequence[float],
    max_drop: float,
) -> Biases:
    """Biases with the best objective that lose at most `max_drop` of accuracy, class by class.

    Args:
        judge: objective (more is better) and accuracy (None where there is none) under biases.
        n_classes: of the model.
        classes: whose biases are tried, in this order.
        shifts: biases to try for each; of equally good ones the smallest wins.
        max_drop: a share of all images, in [0, 1].
    """
    best = np.zeros(n_classes)
    objective, plain = judge(best)
    for _ in range(_PASSES):
        before = best
        for number in classes:
            for shift in sorted(shifts, key=abs):
                tried = best.copy()
                tried[number] = shift
                found, accuracy = judge(tried)
                lost = 0.0 if plain is None or accuracy is None else plain - accuracy
                if found > objective + _LEAST_GAIN and lost <= max_drop + _LEAST_GAIN:
                    best, objective = tried, found
        if best is before:
            break
    return best
