"""Walks: the players leave one by one in random order, watched by one batch of images.

A walk holds everything that it needs to go on, so that several can be under way at once and none
depends on another. The images stay the same within a walk, so that the noise of neighbouring values
cancels in their difference, and are fresh for the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.core.game import Coalitions, GameFacts, Round

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Truncation:
    """Where a walk is cut: after `patience` values in a row of less than `at` (None: nowhere)."""

    at: float | None
    patience: int


@dataclass(kw_only=True)
class Walk:
    """One walk under way.

    `ranks` (n_players,) is the number of players that leave before each; `images` the batch;
    `players` those to be sampled; `prefixes` (n_rows,) the numbers of players gone at which a
    value is wanted, rising; `values` (n_rows, n_metrics), known for the first `n_known`. The last
    `n_below` of these lie below the truncation point one after another.
    """

    number: int
    ranks: Ints
    images: Ints
    players: Ints
    prefixes: Ints
    values: NDArray[np.float64]
    n_known: int = 0
    n_below: int = 0
    truncated: bool = False

    @property
    def done(self) -> bool:
        return self.truncated or self.n_known == len(self.prefixes)

    @property
    def cut(self) -> int:
        """How many players were gone where the walk ended."""
        return int(self.prefixes[self.n_known - 1])


def draw_entropy(rng: np.random.Generator) -> tuple[int, int]:
    """What all walks of a run share; with its number it makes a walk's own generator."""
    first, second = rng.integers(2**63, size=2).tolist()
    return first, second


def begin_walk(
    facts: GameFacts, entropy: tuple[int, int], number: int, *, players: Ints, batch_size: int
) -> Walk:
    """Walk `number` of a run, on which `players` (rising) are to be sampled.

    The others leave without evaluation, so that the value before a sampled player's leaving is
    wanted anew where the one ahead of it is not sampled.
    """
    rng = np.random.default_rng([*entropy, number])
    ranks = rng.permutation(facts.n_players).astype(np.int64)
    images = facts.pool.draw(rng, batch_size).astype(np.int64)
    prefixes = np.union1d(ranks[players], ranks[players] + 1)
    return Walk(
        number=number,
        ranks=ranks,
        images=images,
        players=players,
        prefixes=prefixes,
        values=np.zeros((len(prefixes), facts.n_metrics)),
    )


def next_coalitions(walk: Walk, chunk: int) -> Coalitions:
    """At most `chunk` rows that the walk wants next."""
    wanted = walk.prefixes[walk.n_known : walk.n_known + chunk]
    rows: Coalitions = walk.ranks[None, :] >= wanted[:, None]
    return rows


def ask_for(walks: list[Walk], chunk: int, n_players: int) -> Round:
    """The next `chunk` rows of every walk that is not done, in one round."""
    rows = [(next_coalitions(walk, chunk), walk.images) for walk in walks if not walk.done]
    if not rows:
        return Round.nothing(n_players)
    images = [np.broadcast_to(batch, (len(part), len(batch))) for part, batch in rows]
    return Round(np.concatenate([part for part, _ in rows]), np.concatenate(images))


def advance(
    walks: list[Walk], values: NDArray[np.float64], chunk: int, *, guard: int, rule: Truncation
) -> None:
    """Hand out the values of the round that `ask_for` made, or of its first rows."""
    start = 0
    for walk in [walk for walk in walks if not walk.done]:
        n_rows = min(chunk, len(walk.prefixes) - walk.n_known)
        own = values[start : start + n_rows]
        _learn(walk, own, guard, rule)
        start += len(own)
    assert start == len(values)


def _learn(walk: Walk, values: NDArray[np.float64], guard: int, rule: Truncation) -> None:
    """Take values up to the truncation point; what was evaluated beyond it is left out."""
    n_taken = len(values)
    if rule.at is not None:
        for row, value in enumerate(values[:, guard].tolist()):
            walk.n_below = walk.n_below + 1 if value < rule.at else 0
            if walk.n_below >= rule.patience:
                walk.truncated, n_taken = True, row + 1
                break
    walk.values[walk.n_known : walk.n_known + n_taken] = values[:n_taken]
    walk.n_known += n_taken


def marginals(walk: Walk) -> NDArray[np.float64]:
    """What each of the walk's players took away, (n_players_sampled, n_metrics).

    Zero for those behind the truncation point.
    """
    ranks = walk.ranks[walk.players]
    before = np.searchsorted(walk.prefixes, ranks)
    shares = np.zeros((len(ranks), walk.values.shape[1]))
    seen = ranks < walk.cut
    # The next prefix is one more: both were put into the list for this player.
    shares[seen] = walk.values[before[seen]] - walk.values[before[seen] + 1]
    return shares
