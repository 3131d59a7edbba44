"""What estimators are asked: their settings, checked once, and which players are still open.

The question is which players are the top k. Three answers to "still open" are given, each
(n_players,) and true where it is. `low` and `high` (n_players,) bound the true value of each
player, `values` (n_players,) estimate it.
"""

import math
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, game

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Side = Literal["highest", "lowest", "both"]

SIDES: tuple[Side, ...] = get_args(Side)
_MOST = 100


def check_whole(name: str, value: int, *, least: int) -> None:
    """Raise SettingsError unless a value is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise errors.SettingsError(f"{name} is {value!r}; give a whole number of at least {least}")


def check_real(name: str, value: float, *, least: float, below: float = math.inf) -> None:
    """Raise SettingsError unless a value is a number in [least, below)."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not least <= value < below:
        limit = "" if below == math.inf else f" and below {below:g}"
        raise errors.SettingsError(
            f"{name} is {value!r}; give a finite number from {least:g}{limit}"
        )


def check_positive(name: str, value: float, *, below: float = math.inf) -> None:
    """Raise SettingsError unless a value is a number in (0, below)."""
    check_real(name, value, least=0.0, below=below)
    if value == 0:
        raise errors.SettingsError(f"{name} is {value!r}; give a number greater than 0")


def check_bounded(facts: game.GameFacts, method: str, value_range: float | None) -> None:
    """Raise SettingsError unless every metric has a known range, from which intervals follow.

    Args:
        facts: of the game.
        method: for the message.
        value_range: of one marginal of the first metric, where it was given.
    """
    for number, (name, width) in enumerate(zip(facts.metrics, facts.score_widths, strict=True)):
        if not math.isfinite(width) and not (number == 0 and value_range is not None):
            raise errors.SettingsError(
                f"{method} bounds values by the range of metric {name}, which is not known; set "
                f"{name.partition(':')[2] or name}.score_range = (low, high) beside the function, "
                "or use --method regression"
            )


def unknown(kind: str, name: str, known: Iterable[str], more: str = "") -> errors.SettingsError:
    """The error for an unknown name; it lists the known names and suggests the closest."""
    names = list(known)
    close = get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return errors.SettingsError(
        f"unknown {kind} {name!r}{hint} choose one of {', '.join(names)}{more}"
    )


def check_question(top_k: int | None, side: str) -> None:
    """Raise SettingsError for a question that makes no sense in any game."""
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
        raise errors.SettingsError(
            f"top_k is {top_k} and the game has {n_players} players; give at most {n_players}"
        )
    return top_k


class _TopKSettings(Protocol):
    @property
    def side(self) -> Side: ...

    @property
    def epsilon(self) -> float: ...


def conclusion(top_k: int, side: Side) -> str:
    """What a run has found out that ends by itself."""
    top, lowest = f"the top {top_k}", f"the lowest {top_k}"
    words = {"highest": top, "lowest": lowest, "both": f"{top} and {lowest}"}
    return f"{words[side]} are decided"


class TopKRun:
    """A run that ends once the top k are separated from the rest.

    `still_open` (n_players,) are the players for which the question is open.
    """

    settings: _TopKSettings
    top_k: int
    still_open: Flags

    @property
    def conclusion(self) -> str:
        return conclusion(self.top_k, self.settings.side)

    @property
    def n_undecided(self) -> int:
        return int(self.still_open.sum())

    def _contested(self, values: Floats, radius: Floats, *, as_in_paper: bool = False) -> Flags:
        """See `contested`; both (n_players, n_metrics), of which the first metric counts."""
        first, side = values[:, 0], self.settings.side
        low, high = first - radius[:, 0], first + radius[:, 0]
        rule = contested_in_paper if as_in_paper else contested
        return rule(low, high, first, top_k=self.top_k, side=side, epsilon=self.settings.epsilon)


def contested(
    low: Floats, high: Floats, values: Floats, *, top_k: int, side: Side, epsilon: float
) -> Flags:
    """Players that prevent an answer (LUCB, Kalyanakrishnan et al. 2012).

    There is none once the lowest lower bound of the top k reaches the highest upper bound of the
    rest less epsilon. A player is still open if its bounds alone prevent that.
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


def selected(values: Floats, *, top_k: int, side: Side) -> NDArray[np.int64]:
    """The top k, in rising order."""
    chosen = np.zeros(len(values), bool)
    for _, _, ahead in _sides(values, values, values, side):
        chosen |= _top(ahead, top_k)
    return np.flatnonzero(chosen).astype(np.int64)


def nearest(values: Floats, players: Flags, *, top_k: int, side: Side, most: int) -> Flags:
    """Of `players` (n_players,) at most this many: those nearest to the boundary, or boundaries."""
    ranked, n = np.sort(values), len(values)
    places = {"highest": [n - top_k], "lowest": [top_k], "both": [n - top_k, top_k]}[side]
    edges = ranked[np.clip(places, 0, n - 1)]
    distances = np.abs(values[:, None] - edges).min(axis=1)
    distances[~players] = np.inf
    kept = np.zeros(n, bool)
    kept[np.argsort(distances, kind="stable")[:most]] = True
    return players & kept


def _sides(
    low: Floats, high: Floats, values: Floats, side: Side
) -> Iterator[tuple[Floats, Floats, Floats]]:
    """Bounds and values, with signs such that the top k are the greatest."""
    if side in ("highest", "both"):
        yield low, high, values
    if side in ("lowest", "both"):
        yield -high, -low, -values


def _top(values: Floats, top_k: int) -> Flags:
    top = np.zeros(len(values), bool)
    top[np.argsort(-values, kind="stable")[:top_k]] = True
    return top
