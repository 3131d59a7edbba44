"""Whether outcomes that keep coming still have the mean that was promised, by bets against it.

Someone who doubts the promise bets on each outcome before it is known, at odds that are fair if the
mean is the promised floor. While the promise holds, the capital does not grow on average, and it
ever reaches 1 / level with a probability of at most `level`, over all looks together (Ville 1939).
So one may look after every outcome, and stop or go on as one likes.

The capital is the product of 1 - bet * (x - m) over outcomes x in [0, 1], for a floor of m
(Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting", section 4).
The share that is bet is not known beforehand, so the capital is divided among `BETS`, as in their
diversified Kelly betting (appendix B). For the same reason one half of the capital is bet from the
first outcome on, and the other half is handed out over the later outcomes, so that a fall after a
long good time is found too: a sum over the times at which betting begins, as in the e-detectors of
Shin, Ramdas & Rinaldo 2024, but with weights that add up to 1. So it is the probability of any
false alarm that is bounded, and not how often they come.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors

BETS: tuple[float, ...] = tuple(0.9 * (0.004 / 0.9) ** (step / 11) for step in range(12))
"""Shares of the largest bet, 1 / (1 - m), that are made side by side."""
EVERY = 50
"""Bets begin anew after each so many outcomes."""
_AT_FIRST = 0.5
_HALVINGS = 60

Scores = NDArray[np.float64]


def log_capital(scores: Scores, floor: float) -> NDArray[np.float64]:
    """The logarithm of the capital after each outcome.

    If the mean of each outcome, given all before it, is at least the floor, then the largest of
    these numbers reaches log(1 / level) with a probability of at most `level`, however many
    outcomes come. What comes later does not change what is said of the earlier ones.

    Args:
        scores: outcomes in [0, 1] in the order in which they count, (n,).
        floor: the promised mean, in (0, 1).

    Returns:
        Shape (n,).

    Raises:
        SettingsError: the floor is not in (0, 1).
    """
    check_floor(floor)
    n_starts = len(scores) // EVERY + 1
    weights, left = _handed_out(n_starts)
    begun = np.arange(1, len(scores) + 1) // EVERY
    total = np.full(len(scores), -np.inf)
    for path in _paths(scores, floor):
        stakes = np.logaddexp.accumulate(weights - path[: n_starts * EVERY : EVERY])
        total = np.logaddexp(total, path[1:] + stakes[begun])
    # What was not handed out yet is kept.
    return np.logaddexp(total - math.log(len(BETS)), left[begun])


class Fall(NamedTuple):
    """When bets that began anew earn most: about when the mean fell below the floor.

    `begin` is the number of outcomes before it. `end` is the number after which `log_capital`
    reached the level, that is the outcome by which the fall was found.
    """

    begin: int
    end: int


def find_fall(scores: Scores, floor: float, level: float) -> Fall | None:
    """Where the mean surely fell below the floor; None where that is not sure.

    Args:
        scores: see `log_capital`.
        floor: see `log_capital`.
        level: the probability of a false alarm, over all outcomes that may ever come.

    Raises:
        SettingsError: the floor is not in (0, 1).
    """
    reached = np.flatnonzero(log_capital(scores, floor) >= -math.log(level))
    if not len(reached):
        return None
    end = int(reached[0]) + 1
    starts = np.arange(0, end, EVERY)
    weights = _handed_out(len(starts))[0]
    earned = [weights + path[end] - path[starts] for path in _paths(scores[:end], floor)]
    return Fall(int(starts[int(np.max(earned, axis=0).argmax())]), end)


def check_floor(floor: float) -> None:
    """Refuse a floor that nothing can break or that a single outcome breaks.

    Raises:
        SettingsError: it is not in (0, 1), on the scale of the outcomes.
    """
    if not 0.0 < floor < 1.0:
        raise errors.SettingsError(
            f"a floor at {floor:g} of a range from 0 to 1 cannot be watched: at 0 it always holds, "
            "and at 1 a single wrong answer breaks it; give one in between"
        )


def _paths(scores: Scores, floor: float) -> list[NDArray[np.float64]]:
    """For each of `BETS` the log of what 1 becomes, before the first and after each outcome."""
    share = (scores - floor) / (1.0 - floor)
    begin = np.zeros(1)
    # A running sum: its first entries do not depend on how many follow.
    return [np.concatenate([begin, np.cumsum(np.log1p(-bet * share))]) for bet in BETS]


def _handed_out(n_starts: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logs of the capital that each start gets, and of what is left after it; (n_starts,) each.

    The first gets one half. Behind it what is left falls as 1 / log, as slowly as is simple, so
    that a late start costs little more than the logarithm of its number.
    """
    left = (1.0 - _AT_FIRST) / np.log(math.e + np.arange(n_starts))
    weights = np.concatenate([[_AT_FIRST], left[:-1] - left[1:]])
    return np.log(weights), np.log(left)


def mean_bounds(scores: Scores, level: float) -> tuple[float, float]:
    """A lower and an upper bound of the mean of all outcomes, that may be looked at ever again.

    They are a confidence sequence: each bound is ever wrong, over all looks together, with a
    probability of at most `level`, where outcomes keep one mean. An upper bound below a floor
    implies an alarm by `find_fall`, which finds more: it begins anew.

    Args:
        scores: outcomes in [0, 1], (n,); their order does not matter.
        level: the probability of each bound's ever being wrong.
    """
    values, counts = np.unique(scores, return_counts=True)
    above = _upper_bound(values, counts, level)
    below = 1.0 - _upper_bound(1.0 - values, counts, level)
    return below, above


def _upper_bound(values: Scores, counts: NDArray[np.intp], level: float) -> float:
    """The least floor that the half of the capital which is bet from the first outcome on breaks.

    Each factor of the capital grows with the floor, so it is found by halving.
    """
    needed = math.log(len(BETS) / (_AT_FIRST * level))
    low, high = float(values @ counts / counts.sum()) if len(values) else 1.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle >= 1.0:
            break
        share = (values - middle) / (1.0 - middle)
        logs = [float(np.log1p(-bet * share) @ counts) for bet in BETS]
        low, high = (low, middle) if np.logaddexp.reduce(logs) >= needed else (middle, high)
    return high
