"""Shapley values by enumeration: the truth for small games."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, game, scores

MOST_PLAYERS = 20
_ROWS = 1024


@dataclass(frozen=True)
class Exact:
    """Every coalition on every image: 2^n evaluations, up to 20 players."""

    def start(self, facts: game.GameFacts, rng: np.random.Generator) -> ExactRun:  # noqa: ARG002 (the protocol's)
        """Begin; SettingsError if the game has too many players."""
        if facts.n_players > MOST_PLAYERS:
            raise errors.SettingsError(
                f"exact values take 2^n evaluations and the game has {facts.n_players} players; "
                f"choose at most {MOST_PLAYERS} players or an estimator that samples"
            )
        return ExactRun(facts)


class ExactRun:
    """Row c of `values` is V of the coalition of the players whose bit is set in c."""

    def __init__(self, facts: game.GameFacts) -> None:
        self.facts = facts
        self.values = np.zeros((2**facts.n_players, facts.n_metrics))
        self.n_known = 0

    @property
    def least_evaluations(self) -> int:
        return len(self.values)

    @property
    def conclusion(self) -> str:
        return "every coalition was evaluated"

    def ask(self) -> game.Round:
        return self.ask_ahead(())

    def can_be_told(self, n_rows: int) -> bool:
        """See `driving.driver`: any first rows of a round will do."""
        return n_rows > 0

    def ask_ahead(self, pending: Sequence[game.Round]) -> game.Round:
        """See `driving.playing`: no round depends on outcomes."""
        first = self.n_known + sum(map(len, pending))
        codes = np.arange(first, min(first + _ROWS, len(self.values)))
        return game.Round((codes[:, None] >> np.arange(self.facts.n_players) & 1).astype(bool))

    def tell(self, outcomes: game.Outcomes) -> None:
        values = outcomes.values
        self.values[self.n_known : self.n_known + len(values)] = values
        self.n_known += len(values)

    def read(self) -> scores.Scores:
        """The values; zeros with an infinite error until every coalition is known."""
        complete = self.n_known == len(self.values)
        n = self.facts.n_players
        values = shapley_values(self.values) if complete else np.zeros((n, self.values.shape[1]))
        spread = np.full(values.shape, 0.0 if complete else np.inf)
        return scores.Scores(
            metrics=self.facts.metrics,
            values=values,
            std_errors=spread,
            ci_low=values - spread,
            ci_high=values + spread,
            samples=np.full(n, len(self.values) // 2 if complete else 0, np.int64),
            decided=np.full(n, complete),
            confidence=1.0,
            interval="exact: every coalition on every image",
            efficient=True,
            joint=np.stack([values[:, 0] - spread[:, 0], values[:, 0] + spread[:, 0]], axis=1),
        )


def shapley_values(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shapley 1953: the sum over S without i of |S|! (n-|S|-1)! / n! (V(S + i) - V(S)).

    Args:
        values: V of all coalitions, (2^n_players, n_metrics), n_players >= 1; row c is that of the
            players whose bit is set in c.

    Returns:
        Shape (n_players, n_metrics).
    """
    n = len(values).bit_length() - 1
    sizes = np.zeros(1, np.int64)
    for _ in range(n):
        sizes = np.concatenate([sizes, sizes + 1])
    by_size = np.array([1 / (n * math.comb(n - 1, min(size, n - 1))) for size in range(n + 1)])
    weights = by_size[sizes]
    shares = []
    for player in range(n):
        # The middle axis is the player's bit.
        split = values.reshape(-1, 2, 2**player, values.shape[1])
        weight = weights.reshape(-1, 2, 2**player)[:, 0, :, None]
        shares.append((weight * (split[:, 1] - split[:, 0])).sum(axis=(0, 1)))
    return np.array(shares)
