"""Walks: the players leave one by one in random order, evaluated on one batch of images.

A walk holds everything that it needs to go on, so that several can be under way at once and none
depends on another. The images stay the same within a walk, so that the noise of neighbouring values
cancels in their difference, and are fresh for the next.

`Curve` shows how V falls as players leave, and what a cut hides. The share of V(all) - V(none) that
is left at the cut goes to no player. So the sum of the values falls short by E[V at the cut] -
V(none), on average over all walks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from repairkit.core.game import Coalitions, GameFacts, Round

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_SHOWN = 101


@dataclass(frozen=True)
class Truncation:
    """Where a walk is cut: after `patience` values in a row of less than `at` (None: nowhere)."""

    at: float | None
    patience: int


@dataclass(kw_only=True)
class PlayerWalk:
    """One walk under way.

    `ranks` (n_players,) is the number of players that leave before each; `images` the batch;
    `players` those to be sampled; `prefixes` (n_rows,) the numbers of players gone at which a
    value is wanted, rising; `values` (n_rows, n_metrics), known for the first `n_known`. The last
    `n_below` of these lie below the truncation point one after another.
    """

    stored_as: ClassVar[str] = "Walk"

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


def begin_walk(
    facts: GameFacts, entropy: tuple[int, int], number: int, *, players: Ints, batch_size: int
) -> PlayerWalk:
    """Walk `number` of a run, on which `players` (rising) are to be sampled.

    The others leave without evaluation. So the value just before a sampled player leaves is
    evaluated too where the player ahead of it is not sampled.
    """
    rng = np.random.default_rng([*entropy, number])
    ranks = rng.permutation(facts.n_players).astype(np.int64)
    images = facts.pool.draw(rng, batch_size).astype(np.int64)
    prefixes = np.union1d(ranks[players], ranks[players] + 1)
    return PlayerWalk(
        number=number,
        ranks=ranks,
        images=images,
        players=players,
        prefixes=prefixes,
        values=np.zeros((len(prefixes), facts.n_metrics)),
    )


def next_coalitions(walk: PlayerWalk, chunk: int) -> Coalitions:
    """The next rows of the walk, at most `chunk`."""
    wanted = walk.prefixes[walk.n_known : walk.n_known + chunk]
    rows: Coalitions = walk.ranks[None, :] >= wanted[:, None]
    return rows


def ask_for(walks: list[PlayerWalk], chunk: int, n_players: int) -> Round:
    """The next `chunk` rows of every walk that is not done, in one round."""
    rows = [(next_coalitions(walk, chunk), walk.images) for walk in walks if not walk.done]
    if not rows:
        return Round.nothing(n_players)
    images = [np.broadcast_to(batch, (len(part), len(batch))) for part, batch in rows]
    return Round(np.concatenate([part for part, _ in rows]), np.concatenate(images))


def advance(
    walks: list[PlayerWalk],
    values: NDArray[np.float64],
    chunk: int,
    *,
    guard: int,
    rule: Truncation,
) -> None:
    """Pass the values of the round of `ask_for`, or of its first rows, to the walks."""
    start = 0
    for walk in [walk for walk in walks if not walk.done]:
        n_rows = min(chunk, len(walk.prefixes) - walk.n_known)
        of_walk = values[start : start + n_rows]
        _learn(walk, of_walk, guard, rule)
        start += len(of_walk)
    assert start == len(values)


def _learn(walk: PlayerWalk, values: NDArray[np.float64], guard: int, rule: Truncation) -> None:
    """Take values up to the truncation point and drop those beyond it."""
    n_taken = len(values)
    if rule.at is not None:
        for row, value in enumerate(values[:, guard].tolist()):
            walk.n_below = walk.n_below + 1 if value < rule.at else 0
            if walk.n_below >= rule.patience:
                walk.truncated, n_taken = True, row + 1
                break
    walk.values[walk.n_known : walk.n_known + n_taken] = values[:n_taken]
    walk.n_known += n_taken


def marginals(walk: PlayerWalk) -> NDArray[np.float64]:
    """The loss with each of the walk's players, (n_players_sampled, n_metrics).

    Zero for those behind the truncation point.
    """
    ranks = walk.ranks[walk.players]
    before = np.searchsorted(walk.prefixes, ranks)
    shares = np.zeros((len(ranks), walk.values.shape[1]))
    seen = ranks < walk.cut
    # The next prefix is one more: both were put into the list for this player.
    shares[seen] = walk.values[before[seen]] - walk.values[before[seen] + 1]
    return shares


@dataclass(kw_only=True)
class Curve:
    """Sums over the walks that count.

    `counts` (n_players + 1,) walks with a value after so many removals; `sums` (n_players + 1, 2)
    those of the first metric and of the guard. `n_cut` of `n_walks` were cut, after `sum_of_cuts`
    removals together; `at_cuts` (n_metrics,) sums V there.
    """

    counts: NDArray[np.int64]
    sums: Floats
    at_cuts: Floats
    n_walks: int = 0
    n_cut: int = 0
    sum_of_cuts: int = 0

    @classmethod
    def empty(cls, n_players: int, n_metrics: int) -> Curve:
        return cls(
            counts=np.zeros(n_players + 1, np.int64),
            sums=np.zeros((n_players + 1, 2)),
            at_cuts=np.zeros(n_metrics),
        )

    def add(self, walk: PlayerWalk, guard: int) -> None:
        """Add a walk that is done."""
        at, values = walk.prefixes[: walk.n_known], walk.values[: walk.n_known]
        self.counts[at] += 1
        self.sums[at] += values[:, [0, guard]]
        self.n_walks += 1
        if walk.truncated:
            self.n_cut += 1
            self.sum_of_cuts += walk.cut
            self.at_cuts += values[-1]

    @property
    def mean_cut(self) -> float:
        """Removals at the cut, on average over the walks that were cut; NaN without any."""
        return self.sum_of_cuts / self.n_cut if self.n_cut else float("nan")

    @property
    def mean_value_at_cut(self) -> Floats:
        """V at the cut per metric, (n_metrics,), over the walks that were cut; NaN without any."""
        mean: Floats = self.at_cuts / self.n_cut if self.n_cut else self.at_cuts * np.nan
        return mean

    def as_details(self, facts: GameFacts) -> dict[str, Any]:
        """For a run's `details`: at most a hundred points of the curve, and where walks were cut.

        A point is the number of removals, the number of walks, the first metric's mean and the
        guard's. Walks that were cut early are missing from later points, which raises these.
        """
        known = np.flatnonzero(self.counts)
        shown = (
            known[np.unique(np.linspace(0, len(known) - 1, _SHOWN).astype(int))]
            if len(known)
            else known
        )
        means = self.sums[shown] / self.counts[shown, None]
        points = [
            [int(n), int(count), *mean]
            for n, count, mean in zip(
                shown.tolist(), self.counts[shown].tolist(), means.tolist(), strict=True
            )
        ]
        cuts: dict[str, Any] = {"walks": self.n_walks, "truncated_walks": self.n_cut}
        if self.n_cut:
            values = dict(zip(facts.metrics, self.mean_value_at_cut.tolist(), strict=True))
            cuts |= {"mean_cut": self.mean_cut, "mean_value_at_cut": values}
        return {"curve": points, "truncation": cuts}
