"""Which players are the top k: the question, and for which players it is still open.

Three answers to "still open" are given, each (n_players,) and true where it is. `low` and `high`
(n_players,) bound the true value of each player, `values` (n_players,) estimate it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import SettingsError
from repairkit.estimators.checks import check_whole, unknown

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Side = Literal["highest", "lowest", "both"]

SIDES: tuple[Side, ...] = get_args(Side)
_MOST = 100


def check_question(top_k: int | None, side: str) -> None:
    """Refuse settings that make no sense in any game.

    Raises:
        SettingsError: see the message.
    """
    if top_k is not None:
        check_whole("top_k", top_k, least=1)
    if side not in SIDES:
        raise unknown("side", str(side), SIDES)


def settle_top_k(top_k: int | None, n_players: int) -> int:
    """The k of this game; a tenth of the players, 1 to 100 of them, if None.

    Raises:
        SettingsError: there are fewer than k players.
    """
    if top_k is None:
        return min(_MOST, max(1, math.ceil(n_players / 10)))
    if top_k > n_players:
        raise SettingsError(
            f"top_k is {top_k} and the game has {n_players} players; give at most {n_players}"
        )
    return top_k


def contested(
    low: Floats, high: Floats, values: Floats, *, top_k: int, side: Side, epsilon: float
) -> Flags:
    """Nobody, exactly where the top k are told from the rest (LUCB, Kalyanakrishnan et al. 2012).

    That is where the lowest lower bound of the top k reaches the highest upper bound of the rest
    less epsilon. A player's bounds are open where they alone stand in the way of that.
    """
    still_open = ~np.isfinite(high - low)
    for lows, highs, ahead in _sides(low, high, values, side):
        top = _top(ahead, top_k)
        if top.all():
            continue
        floor, ceiling = lows[top].min(), highs[~top].max()
        still_open |= np.where(top, lows < ceiling - epsilon, highs - epsilon > floor)
    return still_open


def contested_in_paper(
    low: Floats, high: Floats, values: Floats, *, top_k: int, side: Side, epsilon: float
) -> Flags:
    """Players whose bounds, drawn in by epsilon, enclose the k-th largest value.

    The set U of Ghorbani & Zou 2020, Algorithm 1: a player near the k-th leaves it only when its
    radius falls below epsilon.
    """
    still_open = ~np.isfinite(high - low)
    for lows, highs, ahead in _sides(low, high, values, side):
        kth = np.sort(ahead)[-top_k]
        still_open |= (lows + epsilon < kth) & (kth < highs - epsilon)
    return still_open


def astride(low: Floats, high: Floats, values: Floats, *, top_k: int, side: Side) -> Flags:
    """Players whose bounds hold the point midway between the k-th and the next value."""
    still_open = ~np.isfinite(high - low)
    for lows, highs, ahead in _sides(low, high, values, side):
        if top_k < len(ahead):
            ranked = np.sort(ahead)
            middle = (ranked[-top_k] + ranked[-top_k - 1]) / 2
            still_open |= (lows <= middle) & (middle <= highs)
    return still_open


def selected(values: Floats, *, top_k: int, side: Side) -> NDArray[np.int64]:
    """The players asked for, rising."""
    chosen = np.zeros(len(values), bool)
    for _, _, ahead in _sides(values, values, values, side):
        chosen |= _top(ahead, top_k)
    return np.flatnonzero(chosen).astype(np.int64)


def describe(top_k: int, side: Side) -> str:
    """The question in words."""
    words = {
        "highest": f"the top {top_k}",
        "lowest": f"the lowest {top_k}",
        "both": f"the top {top_k} and the lowest {top_k}",
    }
    return words[side]


def _sides(
    low: Floats, high: Floats, values: Floats, side: Side
) -> Iterator[tuple[Floats, Floats, Floats]]:
    """Bounds and values, turned so that the players asked for are the greatest."""
    if side in ("highest", "both"):
        yield low, high, values
    if side in ("lowest", "both"):
        yield -high, -low, -values


def _top(values: Floats, top_k: int) -> Flags:
    top = np.zeros(len(values), bool)
    top[np.argsort(-values, kind="stable")[:top_k]] = True
    return top
