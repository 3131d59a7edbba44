"""What is fitted to the rows of a regression: outcomes with all players, and what rows say."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAST_ROWS = 32
"""With fewer rows nothing is fitted."""


@dataclass(frozen=True)
class FullOutcomes:
    """Outcomes with all players present.

    `by_image` (n_images, n_metrics) are those of every image, as a drawn row would give them;
    `means` (n_metrics,) are V(all).
    """

    by_image: Floats
    means: Floats

    def of(self, metrics: NDArray[np.intp], weight: float = 1.0) -> FullOutcomes:
        """Those of some metrics, outcomes of images multiplied by a weight."""
        return FullOutcomes(self.by_image[:, metrics] * weight, self.means[metrics])


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What the rows say.

    `shares` (n_players, n_metrics) add up to zero: the effect of a player's presence at a fixed
    size, with the penalty's shrinkage undone; `errors` of the same shape are their standard errors.
    `drops` (n_metrics,) are the mean loss of V by one more removal, `drop_errors` their standard
    errors. For the first metric: the penalty in units of a column's sum of squares, the fit's
    degrees of freedom, and the share of the residual variance that the players explain, by
    generalised cross-validation. `coefficients` and `explained` (n_metrics,) are those of a control
    variate: by how much it is multiplied, and its share of the rows' variance; empty without one.
    `noise` (n_players, n_metrics) is the part of `errors` that other rows would draw anew; empty
    where it is all of them. `correlations` (n_metrics,) says how the errors of a metric's shares go
    with those of its auxiliary metric's, where it has one; empty without any.
    """

    shares: Floats
    errors: Floats
    drops: Floats
    drop_errors: Floats
    penalty: float
    degrees: float
    r2: float
    coefficients: Floats = field(default_factory=lambda: np.zeros(0))
    explained: Floats = field(default_factory=lambda: np.zeros(0))
    noise: Floats = field(default_factory=lambda: np.zeros(0))
    correlations: Floats = field(default_factory=lambda: np.zeros(0))

    @property
    def drawn_errors(self) -> Floats:
        """The part of `errors` that other rows would draw anew, (n_players, n_metrics)."""
        return self.noise if self.noise.size else self.errors

    @property
    def reliability(self) -> float:
        """The correlation that two runs like this would have, of the first metric.

        It is the variance of the shares less that of their errors, over the former.
        """
        total = float(self.shares[:, 0].var())
        error = float((self.drawn_errors[:, 0] ** 2).mean())
        return max(1 - error / total, 0.0) if total > 0 else 0.0


def nothing_known(shape: tuple[int, int]) -> Fit:
    """Shares of zero with infinite errors, (n_players, n_metrics)."""
    unknown = np.full(shape, np.inf)
    return Fit(
        shares=np.zeros(shape),
        errors=unknown,
        drops=np.zeros(shape[1]),
        drop_errors=np.full(shape[1], np.inf),
        penalty=0.0,
        degrees=0.0,
        r2=0.0,
    )
