"""Shapley values by enumeration: the truth for small games.

On the given images the values are exact. The user cares about images like these, so errors and
intervals are stated over images, as for leave-one-out: the value of the game is the mean of the
values that the game has on each image alone, and their spread tells how far other images would move
it. For a mean, the jackknife over images gives the same error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, game, scores
from repairkit.estimators import samples
from repairkit.estimators.reference_scores import ImageTable

MOST_PLAYERS = 20
CONFIDENCE = 0.95
_ROWS = 1024
_NO_ERROR = "; no error over images is stated"


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
    """Row c of `values` is V of the coalition of the players whose bit is set in c.

    `by_image` (n_players, n_pairs) adds up the value of each player on each image alone, for the
    pairs of image and metric of `table`. It is empty where images are judged together, or too many.
    """

    def __init__(self, facts: game.GameFacts) -> None:
        self.facts = facts
        self.values = np.zeros((2**facts.n_players, facts.n_metrics))
        self.table = ImageTable.of(facts)
        n_pairs = len(self.table.images) if self.table.kept and len(facts.pool) > 1 else 0
        self.by_image = np.zeros((facts.n_players, n_pairs))
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
        if self.by_image.size:
            weights = _weights(self.facts.n_players)
            players = np.arange(self.facts.n_players)
            # Row by row: the sum is the same, to the last bit, however rounds are cut.
            for code, scores_of_row in enumerate(outcomes.scores, self.n_known):
                present = (code >> players & 1).astype(bool)
                size = int(present.sum())
                signed = np.where(present, weights[size - 1], -weights[min(size, len(weights) - 1)])
                pairs = scores_of_row[self.table.images, self.table.metrics]
                self.by_image += signed[:, None] * pairs
        self.n_known += len(values)

    def read(self) -> scores.Scores:
        """The values; zeros with an infinite error until every coalition is known."""
        complete = self.n_known == len(self.values)
        n = self.facts.n_players
        values = shapley_values(self.values) if complete else np.zeros((n, self.values.shape[1]))
        spread = self._std_errors() if complete else np.full(values.shape, np.inf)
        degrees = max(len(self.facts.pool) - 1, 1)
        quantile = samples.student_quantile(CONFIDENCE, degrees)
        low, high = samples.around(values, quantile * spread)
        return scores.Scores(
            metrics=self.facts.metrics,
            values=values,
            std_errors=spread,
            ci_low=low,
            ci_high=high,
            samples=np.full(n, len(self.values) // 2 if complete else 0, np.int64),
            decided=np.full(n, complete),
            confidence=CONFIDENCE if self.by_image.size else 1.0,
            interval=(
                "exact on these images (every coalition on every image)"
                + (
                    "; Student's t over images, for others like them"
                    if self.by_image.size
                    else _NO_ERROR
                )
            ),
            efficient=True,
            joint=samples.joint_bounds(values, spread, 1 - (1 - CONFIDENCE) / n, degrees),
        )

    def _std_errors(self) -> NDArray[np.float64]:
        """Over images, (n_players, n_metrics); zeros where the value of one image is not known."""
        errors, n_images = (
            np.zeros((len(self.by_image), self.facts.n_metrics)),
            len(self.facts.pool),
        )
        for metric in range(self.facts.n_metrics if self.by_image.size else 0):
            alone = self.by_image[:, self.table.metrics == metric]
            means = alone.sum(axis=1, keepdims=True) / n_images
            # Images that the metric leaves out lie at zero.
            squares = ((alone - means) ** 2).sum(axis=1)
            squares += (n_images - alone.shape[1]) * means[:, 0] ** 2
            errors[:, metric] = np.sqrt(squares / (n_images - 1) / n_images)
        return errors


def _weights(n_players: int) -> NDArray[np.float64]:
    """What a coalition of the others counts by its size, (n_players,)."""
    return np.array([1 / (n_players * math.comb(n_players - 1, k)) for k in range(n_players)])


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
    weights = _weights(n)[np.minimum(sizes, n - 1)]
    shares = []
    for player in range(n):
        # The middle axis is the player's bit.
        split = values.reshape(-1, 2, 2**player, values.shape[1])
        weight = weights.reshape(-1, 2, 2**player)[:, 0, :, None]
        shares.append((weight * (split[:, 1] - split[:, 0])).sum(axis=(0, 1)))
    return np.array(shares)
