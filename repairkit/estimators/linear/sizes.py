"""How many players to remove, and whom."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from repairkit.core.game import Coalitions

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Law = Literal["falling", "shapley", "even"]

LAWS: tuple[Law, ...] = get_args(Law)
MEASURED = 12
_SURE = 3.0  # standard errors: a dozen sizes are looked at


def probabilities(law: Law, least: int, most: int, n_players: int) -> Floats:
    """Of removing j = least ... most players.

    `falling` is 1/sqrt(j); `even` the same for all; `shapley` 1/(j (n - j)), the weights of the
    regression whose solution is Shapley's values (Charnes et al. 1988; Lundberg & Lee 2017).
    """
    sizes = np.arange(least, most + 1, dtype=np.float64)
    if law == "falling":
        weights = sizes**-0.5
    elif law == "even":
        weights = np.ones(len(sizes))
    else:
        weights = 1 / (sizes * (n_players - sizes))
    shares: Floats = weights / weights.sum()
    return shares


def semivalue_sizes(least: int, most: int, n_players: int, tilt: float) -> tuple[Floats, Floats]:
    """How often to draw each size for a semivalue over even sizes, and how much its rows count.

    Let s_j be the mean of V with a player less that without, among coalitions that lack j players,
    and f(j) the mean of V over all of these. The mean over j = a ... b of V(S + i) - V(S), where S
    lacks j players and S + i one less, is (f(a - 1) - f(b)) / (b - a + 1) and, beside it, a mean of
    the s_j with weights m: (a - 1) / n at a - 1, 1 at a ... b - 1 and 1 - b / n at b. A regression
    weighs a row by j (n - j) of itself. So rows are drawn as one likes and weighed back. What a row
    says of a player grows with j; where its variance does so too, sizes are best drawn by m, and
    where it grows with the square of j, by m sqrt(j).

    Args:
        least: a, at least 1.
        most: b, at most n - 1.
        n_players: n.
        tilt: sizes are drawn in proportion to m times this power of j.

    Returns:
        Probabilities of the sizes 0 ... n, and weights of their rows, whose mean is one.
    """
    sizes = np.arange(n_players + 1, dtype=np.float64)
    wanted = ((sizes >= least) & (sizes < most)).astype(np.float64)
    wanted[most] = 1 - most / n_players
    if least > 1:
        wanted[least - 1] = (least - 1) / n_players
    drawn = wanted * np.maximum(sizes, 1) ** tilt
    drawn /= drawn.sum()
    inner = np.maximum(sizes * (n_players - sizes), 1)
    weights = np.divide(wanted / inner, drawn, out=np.zeros_like(drawn), where=drawn > 0)
    return drawn, weights / (drawn @ weights)


def draw_sizes(rng: np.random.Generator, shares: Floats, least: int, n_rows: int) -> Ints:
    """Sizes in proportion to their probabilities (systematic sampling), in random order."""
    points = (rng.random() + np.arange(n_rows)) / n_rows * shares.sum()
    picks = np.searchsorted(np.cumsum(shares), points, side="right")
    sizes = least + np.minimum(picks, len(shares) - 1)
    return rng.permutation(sizes).astype(np.int64)


def remove_at_random(rng: np.random.Generator, sizes: Ints, n_players: int) -> Coalitions:
    """Coalitions that lack as many players as `sizes` says, each set of that size as likely.

    Players are dealt from shuffled decks, so that all are removed about equally often; what is left
    of a deck that does not suffice is laid aside. That depends on sizes alone, so that each
    coalition by itself is as likely as any of its size.
    """
    coalitions = np.ones((len(sizes), n_players), bool)
    deck, dealt = rng.permutation(n_players), 0
    for row, size in zip(coalitions, sizes.tolist(), strict=True):
        if dealt + size > n_players:
            deck, dealt = rng.permutation(n_players), 0
        row[deck[dealt : dealt + size]] = False  # row by row, which stays in the cache
        dealt += size
    return coalitions


def pilot_sizes(n_players: int, n_rows: int) -> Ints:
    """A dozen sizes, evenly apart on a scale of ratios, over all rows in turn."""
    most = max(n_players - 1, 1)
    grid = np.unique(np.geomspace(1, most, min(MEASURED, most)).round().astype(np.int64))
    return np.resize(grid, n_rows)


def find_collapse(
    sizes: Ints, values: Floats, *, full: float, empty: float, lost: float, n_players: int
) -> int:
    """The number of removals at which V has lost the share `lost` of V(all) - V(none).

    Args:
        sizes: of the pilot's rows, (n_rows,).
        values: their outcomes, (n_rows,).
        full: V(all).
        empty: V(none).
        lost: in (0, 1].
        n_players: at least 2.

    Returns:
        1 to n - 1, read between the pilot's sizes on a scale of ratios; n - 1 where V never falls
        so low, or does not fall at all.
    """
    if full <= empty:
        return n_players - 1
    grid = np.unique(sizes)
    means = np.array([values[sizes == size].mean() for size in grid])
    curve = np.concatenate([[full], _falling(means, np.array([(sizes == s).sum() for s in grid]))])
    scale = np.concatenate([[0.0], np.log(grid + 1)])
    floor = full - lost * (full - empty)
    below = np.flatnonzero(curve <= floor)
    if not len(below) or below[0] == 0:
        return n_players - 1
    after = int(below[0])
    step = (curve[after - 1] - floor) / (curve[after - 1] - curve[after])
    found = np.exp(scale[after - 1] + step * (scale[after] - scale[after - 1])) - 1
    return int(np.clip(round(float(found)), 1, n_players - 1))


def falls_below(sizes: Ints, values: Floats, empty: float) -> bool:
    """Whether V is surely less at some of the pilot's sizes than with no one present.

    That happens where the empty network does well by chance, for instance by always giving the
    commonest class. The last removals then win back what the others lost, so that a value cut off
    before them is another one.
    """
    for size in np.unique(sizes):
        own = values[sizes == size]
        if len(own) > 1:
            error = float(own.std(ddof=1)) / np.sqrt(len(own))
            if empty - own.mean() > _SURE * max(error, np.finfo(float).eps):
                return True
    return False


def _falling(means: Floats, counts: Ints) -> Floats:
    """The nearest sequence that never rises (pool adjacent violators)."""
    blocks: list[tuple[float, int, int]] = []
    for mean, count in zip(means.tolist(), counts.tolist(), strict=True):
        block = (mean, count, 1)
        while blocks and blocks[-1][0] < block[0]:
            other = blocks.pop()
            total = other[1] + block[1]
            pooled = (other[0] * other[1] + block[0] * block[1]) / total
            block = (pooled, total, other[2] + block[2])
        blocks.append(block)
    return np.concatenate([np.full(length, mean) for mean, _, length in blocks])
