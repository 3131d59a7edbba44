"""Choose among patches that were tried on the selection images; freezing nothing is one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from repairkit.core.patch import Patch


@dataclass(frozen=True)
class Trial:
    """A patch and what it gives on the selection images; the empty patch is the model as it is.

    `accuracy` is None for a model without classes.
    """

    patch: Patch
    objective: float
    accuracy: float | None


def choose(trials: Sequence[Trial], *, max_drop: float, sign: int = 1) -> Trial:
    """The best objective among the trials that lose at most `max_drop` of accuracy.

    Args:
        trials: the first is the model as it is; of equals, the earlier (smaller) wins.
        max_drop: a share of all images, in [0, 1].
        sign: 1 where more of the objective is better, else -1.
    """
    baseline = trials[0]
    # Accuracies are ratios of counts: allow for their rounding.
    allowed = [
        t
        for t in trials
        if t.accuracy is None
        or baseline.accuracy is None
        or baseline.accuracy - t.accuracy <= max_drop + 1e-12
    ]
    return max(allowed, key=lambda t: (sign * t.objective, -len(t.patch)))
