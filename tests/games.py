"""Games whose values stand in a table, so that every answer can be known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from repairkit.core.game import Game, GameFacts, ImagePool, Outcomes, Round

Floats = NDArray[np.float64]


class TableGame:
    """A game of `scores` (2^n_players, n_images, n_metrics); row c has the players set in c."""

    def __init__(self, scores: Floats, *, guard: int = 0, widths: tuple[float, ...] = ()) -> None:
        self.scores = scores
        n_coalitions, n_images, n_metrics = scores.shape
        ranges = np.ptp(scores, axis=(0, 1)).tolist()
        self.facts = GameFacts(
            n_players=n_coalitions.bit_length() - 1,
            metrics=tuple(f"metric{i}" for i in range(n_metrics)),
            score_widths=widths or tuple(ranges),
            pool=ImagePool.uniform(n_images),
            guard=guard,
        )

    @property
    def values(self) -> Floats:
        return self.scores.mean(axis=1)

    def play(self, round: Round) -> Outcomes:
        codes = round.coalitions @ (1 << np.arange(self.facts.n_players))
        if round.images is None:
            return Outcomes(self.scores[codes])
        return Outcomes(self.scores[codes[:, None], round.images])


class WatchedGame:
    """Passes rounds on, counts them, and lets `before` look at each (and maybe raise)."""

    def __init__(self, game: Game, before: Callable[[int], None] = lambda _: None) -> None:
        self.game, self.before = game, before
        self.facts = game.facts
        self.rounds: list[Round] = []

    @property
    def evaluations(self) -> int:
        return sum(round.evaluations for round in self.rounds)

    def play(self, round: Round) -> Outcomes:
        self.before(len(self.rounds))
        self.rounds.append(round)
        return self.game.play(round)


def members(n_players: int) -> NDArray[np.bool_]:
    """Who is in each coalition: (2^n_players, n_players)."""
    return (np.arange(2**n_players)[:, None] >> np.arange(n_players) & 1).astype(bool)


def quiet(values: Floats, n_images: int = 1) -> Floats:
    """Scores (2^n, n_images, n_metrics) that are the same for every image."""
    table = values.reshape(len(values), 1, -1)
    return np.repeat(table, n_images, axis=1)


def noisy(values: Floats, *, noise: float, n_images: int = 32, seed: int = 0) -> Floats:
    """Scores that scatter over the images around the values, differently in each coalition."""
    table = quiet(values, n_images)
    scatter = noise * np.random.default_rng(seed).standard_normal(table.shape)
    return table + scatter - scatter.mean(axis=1, keepdims=True)


def any_values(n_players: int, n_metrics: int = 1, *, seed: int = 0) -> Floats:
    """A game with interactions of every order, (2^n, n_metrics), values in [0, 1)."""
    return np.random.default_rng(seed).random((2**n_players, n_metrics))


def alike(scores: Floats, representative: NDArray[np.int64]) -> Floats:
    """The scores of each coalition's representative, (2^n,), in place of its own."""
    return scores[representative]


def without(n_players: int, player: int) -> NDArray[np.int64]:
    """Each coalition's representative where `player` changes nothing."""
    return np.arange(2**n_players) & ~(1 << player)


def with_twins(n_players: int, first: int, second: int) -> NDArray[np.int64]:
    """Each coalition's representative where `first` and `second` may stand for one another."""
    codes = np.arange(2**n_players)
    only_second = (codes >> second & 1 == 1) & (codes >> first & 1 == 0)
    return np.where(only_second, codes ^ (1 << first) ^ (1 << second), codes)


def additive(shares: list[float]) -> Floats:
    """V is the sum of the shares of who is present, (2^n, 1)."""
    return members(len(shares)) @ np.array(shares)[:, None]


class SoftGame:
    """A game of many players: each removal takes from an image's margin, whose sigmoid is scored.

    A few players matter much, one in ten does harm; what a player takes differs from image to
    image. With `uneven`, some images are drawn more often than others, and count for less.
    """

    def __init__(
        self, n_players: int, *, n_images: int = 64, seed: int = 0, uneven: bool = False
    ) -> None:
        rng = np.random.default_rng(seed)
        losses = np.exp(rng.standard_normal(n_players))
        losses[rng.random(n_players) < 0.1] *= -1.0
        losses *= 3.0 / (0.15 * losses.sum())
        self.losses = losses * (1 + 0.5 * rng.standard_normal((n_images, n_players)))
        self.margins = 1.5 + rng.standard_normal(n_images)
        shares = rng.random(n_images) + 0.2 if uneven else np.ones(n_images)
        pool = ImagePool(shares / shares.sum(), np.zeros(n_images, np.int64))
        self.ratios = 1 / (n_images * pool.probabilities)
        self.facts = GameFacts(
            n_players=n_players,
            metrics=("soft",),
            score_widths=(float(self.ratios.max()),),
            pool=pool,
        )

    def play(self, round: Round) -> Outcomes:
        margins = self.margins - (~round.coalitions).astype(float) @ self.losses.T
        scores = 1 / (1 + np.exp(-2 * margins))
        if round.images is None:
            return Outcomes(scores[:, :, None])
        drawn = np.take_along_axis(scores, round.images, axis=1) * self.ratios[round.images]
        return Outcomes(drawn[:, :, None])
