"""Stars: one random coalition, and beside it each with one player changed.

All marginals of a star are taken at the same coalition on the same images. So noise that they share
cancels when players are compared, and an engine recomputes only what one player can reach. With a
size uniform over 0 ... n, V(S + i) - V(S - i) is an unbiased sample of every player's Shapley value
(comparable marginal contributions sampling; Kolpaczki, Nielen & Huellermeier 2025, "Antithetic
Sampling for Top-k Shapley Identification").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.core.game import Coalitions, GameFacts, Round

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_CYCLE = 8


@dataclass(frozen=True)
class Sizes:
    """The law of the number of players that a star's coalition lacks.

    Up to `most` with probability `share`, evenly; more with the rest. A sample counts by `weight`,
    the ratio of the even law over 0 ... n to this one, so that nothing is biased.
    """

    n_players: int
    most: int
    share: float

    @classmethod
    def even(cls, n_players: int) -> Sizes:
        return cls(n_players, n_players, 1.0)

    @property
    def greatest_weight(self) -> float:
        return max(self.weight(0), self.weight(self.n_players))

    def weight(self, size: int) -> float:
        even = 1 / (self.n_players + 1)
        if size <= self.most:
            return even * (self.most + 1) / self.share
        return even * (self.n_players - self.most) / (1 - self.share)

    def at(self, point: float) -> int:
        """The size below which this share, in [0, 1), of all draws lies."""
        if point < self.share:
            return int(point / self.share * (self.most + 1))
        rest = (point - self.share) / (1 - self.share)
        return min(self.most + 1 + int(rest * (self.n_players - self.most)), self.n_players)


@dataclass(kw_only=True)
class Star:
    """A star under way.

    `present` (n_players,) is its coalition, `images` the batch, `players` those to be sampled,
    `values` (1 + n_sampled, n_metrics) of the coalition and of those beside it, known for the first
    `n_known`; a sample counts by `weight`.
    """

    present: NDArray[np.bool_]
    images: Ints
    players: Ints
    weight: float
    values: Floats
    n_known: int = 0

    @property
    def done(self) -> bool:
        return self.n_known == len(self.values)


def begin_star(
    facts: GameFacts,
    entropy: tuple[int, int],
    number: int,
    *,
    players: Ints,
    sizes: Sizes,
    batch_size: int,
) -> Star:
    """Star `number` of a run. Eight in a row spread the sizes evenly (stratified sampling)."""
    cycle, place = divmod(number, _CYCLE)
    order = np.random.default_rng([*entropy, 0, cycle]).permutation(_CYCLE)
    rng = np.random.default_rng([*entropy, 1, number])
    size = sizes.at((int(order[place]) + rng.random()) / _CYCLE)
    present = np.ones(facts.n_players, bool)
    present[rng.permutation(facts.n_players)[:size]] = False
    images = facts.pool.draw(rng, batch_size).astype(np.int64)
    values = np.zeros((1 + len(players), facts.n_metrics))
    return Star(
        present=present, images=images, players=players, weight=sizes.weight(size), values=values
    )


def ask_for_star(star: Star, chunk: int) -> Round:
    """The next `chunk` rows; the coalition itself is the first."""
    rows = np.arange(star.n_known, min(star.n_known + chunk, len(star.values)))
    coalitions: Coalitions = np.repeat(star.present[None], len(rows), axis=0)
    beside = rows > 0
    changed = star.players[rows[beside] - 1]
    coalitions[np.flatnonzero(beside), changed] ^= True
    return Round(coalitions, np.broadcast_to(star.images, (len(rows), len(star.images))))


def learn_star(star: Star, values: Floats) -> None:
    """Take the values of the round of `ask_for_star`."""
    star.values[star.n_known : star.n_known + len(values)] = values
    star.n_known += len(values)


def star_marginals(star: Star) -> Floats:
    """Weighted samples of the players' values, (n_sampled, n_metrics)."""
    signs = np.where(star.present[star.players], 1.0, -1.0)[:, None]
    samples: Floats = star.weight * signs * (star.values[0] - star.values[1:])
    return samples
