"""Whether two facts about units go together within layers: tests by permutation.

Layers differ in everything, so units are compared with units of their own layer alone. Under the
null hypothesis, which unit of a layer has which value is chance; so values are dealt out anew
within every layer (Fisher 1935; for strata, Mantel & Haenszel 1959 and van Elteren 1960).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.concepts.responding import midranks

Values = NDArray[np.float64]
N_DRAWS = 9_999
_DRAWS_AT_ONCE = 1_000


@dataclass(frozen=True)
class Tested:
    """A statistic, its two-sided p value, and the middle 95 % of what chance gives.

    `value` and `p` are NaN where the statistic is not defined, as where no layer has both kinds.
    """

    value: float
    p: float
    chance_low: float
    chance_high: float


UNDEFINED = Tested(*[float("nan")] * 4)


def difference_within(
    members: NDArray[np.bool_], measure: Values, layers: NDArray[np.intp], *, seed: int
) -> tuple[Tested, float, float]:
    """How much more of a measure some units have than the others of their layers.

    The mean difference over layers, each weighed by n_in * n_out / (n_in + n_out), which are the
    weights of Mantel & Haenszel.

    Args:
        members: (n_units,), the units that are compared with the others.
        measure: (n_units,), such as 0 and 1 for a share.
        layers: (n_units,), the layer of each unit.
        seed: of the permutations.

    Returns:
        The difference, and the mean of the members and of the others with these weights.
    """
    strata = [np.flatnonzero(layers == layer) for layer in np.unique(layers)]
    sizes = [(int(members[s].sum()), int((~members[s]).sum())) for s in strata]
    kept = [(s, n) for s, n in zip(strata, sizes, strict=True) if min(n)]
    if not kept:
        return UNDEFINED, float("nan"), float("nan")
    weights = np.array([a * b / (a + b) for _, (a, b) in kept])
    weights /= weights.sum()
    inside = sum(w * measure[s][members[s]].mean() for w, (s, _) in zip(weights, kept, strict=True))
    outside = sum(
        w * measure[s][~members[s]].mean() for w, (s, _) in zip(weights, kept, strict=True)
    )

    def drawn(shuffled: Callable[[NDArray[np.intp]], NDArray[np.float64]]) -> Values:
        total = np.zeros(1)
        for weight, (stratum, (n_in, n_out)) in zip(weights, kept, strict=True):
            values = shuffled(stratum)
            sums = values[:, members[stratum]].sum(axis=1)
            means = sums / n_in - (values.sum(axis=1) - sums) / n_out
            total = total + weight * means
        return total

    return _tested(drawn, measure, seed), float(inside), float(outside)


def rank_correlation_within(
    some: Values, others: Values, layers: NDArray[np.intp], *, seed: int
) -> Tested:
    """Spearman's rank correlation of two measures within layers.

    Ranks are taken within each layer, as shares of its size and less their mean, and then
    correlated over all units.
    """
    strata = [np.flatnonzero(layers == layer) for layer in np.unique(layers)]
    first, second = np.zeros(len(some)), np.zeros(len(some))
    for stratum in strata:
        for ranks, values in ((first, some), (second, others)):
            within = midranks(values[stratum][None])[0]
            ranks[stratum] = (within - within.mean()) / len(stratum)
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    if not scale > 0:
        return UNDEFINED

    def drawn(shuffled: Callable[[NDArray[np.intp]], NDArray[np.float64]]) -> Values:
        total = np.zeros(1)
        for stratum in strata:
            total = total + shuffled(stratum) @ first[stratum]
        return total / scale

    return _tested(drawn, second, seed)


def _tested(
    statistic: Callable[[Callable[[NDArray[np.intp]], NDArray[np.float64]]], Values],
    measure: Values,
    seed: int,
) -> Tested:
    """The statistic of the measure as it is, beside that of measures dealt out anew in layers."""
    seen = float(statistic(lambda stratum: measure[stratum][None])[0])
    drawn = np.concatenate(list(_all_drawn(statistic, measure, seed)))
    # Sums in another order round differently: what is equal but for that counts as equal.
    tolerance = 1e-9 * max(1.0, abs(seen))
    at_least = (drawn >= seen - tolerance).sum(), (drawn <= seen + tolerance).sum()
    p = min(1.0, 2 * (1 + int(min(at_least))) / (1 + len(drawn)))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Tested(seen, p, float(low), float(high))


def _all_drawn(
    statistic: Callable[[Callable[[NDArray[np.intp]], NDArray[np.float64]]], Values],
    measure: Values,
    seed: int,
) -> Iterator[Values]:
    rng = np.random.default_rng((seed, 0xFA1E))
    for start in range(0, N_DRAWS, _DRAWS_AT_ONCE):
        n = min(_DRAWS_AT_ONCE, N_DRAWS - start)

        def shuffled(stratum: NDArray[np.intp], n: int = n) -> NDArray[np.float64]:
            tiled = np.broadcast_to(measure[stratum], (n, len(stratum)))
            return rng.permuted(tiled, axis=1)

        yield statistic(shuffled)
