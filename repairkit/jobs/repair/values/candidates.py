"""Which filters a search tries: those whose values say most surely that they do harm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.core.scores import Scores
from repairkit.metrics.figures import SHARPNESS
from repairkit.metrics.image_metrics import LOSS_OF_GROUP

MOST_CANDIDATES = 24
Floats = NDArray[np.float64]
_GROUP = f"{LOSS_OF_GROUP.name}:"


@dataclass(frozen=True)
class Harm:
    """Values of all filters with their intervals, (n_players, n_metrics).

    `signs` hold 1 for each metric of which more is better, else -1: where more is better, a filter
    of negative value does harm.
    """

    metrics: tuple[str, ...]
    values: Floats
    ci_low: Floats
    ci_high: Floats
    signs: tuple[int, ...]

    @classmethod
    def of(cls, scores: Scores, signs: tuple[int, ...]) -> Harm:
        """What scores tell."""
        return cls(scores.metrics, scores.values, scores.ci_low, scores.ci_high, signs)

    def towards_the_worst(self, losses: dict[str, float]) -> Harm:
        """The overall figure, and that of groups weighed by how badly they fare.

        A group of loss `l` counts in proportion to exp(s l), as in the softened minimum that is
        searched by (see `metrics.figures`). Groups hold different images, so their errors are
        independent.

        Args:
            losses: of the groups, by name, on the images that the values come from.
        """
        columns = [i for i, name in enumerate(self.metrics) if name.startswith(_GROUP)]
        named = [self.metrics[i].removeprefix(_GROUP) for i in columns]
        if not columns or any(name not in losses for name in named):
            return self
        own = np.array([losses[name] for name in named])
        shares = np.exp(SHARPNESS * (own - own.max()))
        shares /= shares.sum()
        # A group of no weight must not bring in its unknown error.
        used = shares > 0
        chosen, shares = np.array(columns)[used], shares[used]
        value = self.values[:, chosen] @ shares
        reach = np.sqrt((self.ci_high - self.ci_low)[:, chosen] ** 2 @ shares**2) / 2
        first = slice(0, 1)
        return Harm(
            (self.metrics[0], "groups by their loss"),
            np.column_stack([self.values[:, first], value]),
            np.column_stack([self.ci_low[:, first], value - reach]),
            np.column_stack([self.ci_high[:, first], value + reach]),
            (self.signs[0], self.signs[columns[0]]),
        )


def find_candidates(harm: Harm, *, most: int = MOST_CANDIDATES) -> tuple[int, ...]:
    """The filters whose values say most surely that they do harm by some metric.

    They are ranked by value over width of the interval; where no error is known (norms, random
    scores), by value. Whether a filter is worth freezing, the search finds out.

    Args:
        harm: the values; NaN where a filter was not scored.
        most: how many.
    """
    good = np.asarray(harm.signs) * harm.values
    with np.errstate(invalid="ignore"):
        harmful = (good < 0).any(axis=1)
        width = np.abs(harm.ci_high - harm.ci_low)
    key = np.where(np.isnan(good), np.inf, good)
    if np.isfinite(width).any():
        known = np.isfinite(width) & (width > 0)
        far = np.where(good == 0, 0.0, np.copysign(np.inf, good))
        scaled = np.divide(good, width, out=far, where=known)
        key = np.where(np.isnan(scaled), np.inf, scaled)
    players = np.flatnonzero(harmful)
    ranked = players[np.argsort(key[players].min(axis=1), kind="stable")]
    return tuple(map(int, ranked[:most]))
