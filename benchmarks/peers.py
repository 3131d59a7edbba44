"""shapiq's estimators of Shapley values (order 1) on the games of this benchmark.

A coalition is tried on 128 images. They are the same for a coalition and the one evaluated before
it where these differ by one player, so that the luck of the draw cancels from a marginal; every
other coalition has fresh ones. Everyone and no one are tried on all images. An approximator is run
anew for each budget.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.game import Game, Round

IMAGES = 128
NAMES = ("shapiq-permutation", "shapiq-stratified", "shapiq-kernel")
_ROWS = 64
_MOST_PLAYERS = 1_029  # of more, the middle binomial exceeds a float


class PeerError(Exception):
    """Why a peer cannot take part."""


@dataclass
class Counted:
    """A game as shapiq calls it: coalitions (n_rows, n_players) to values (n_rows,).

    `rounds` are those played, each with its image passes.
    """

    game: Game
    rng: np.random.Generator
    rounds: list[tuple[Round, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._before = np.zeros(self.game.facts.n_players, bool)
        self._images = np.zeros(IMAGES, np.int64)

    def __call__(self, coalitions: NDArray[np.bool_]) -> NDArray[np.float64]:
        rows = np.atleast_2d(coalitions).astype(bool)
        values = np.zeros(len(rows))
        whole = rows.all(axis=1) | ~rows.any(axis=1)
        if whole.any():
            values[whole] = self._play(Round(rows[whole]), len(self.game.facts.pool))
        rest = np.flatnonzero(~whole)
        images = self._draw(rows)[rest]
        for first in range(0, len(rest), _ROWS):
            part = rest[first : first + _ROWS]
            drawn = images[first : first + _ROWS]
            values[part] = self._play(Round(rows[part], drawn), IMAGES)
        return values

    def _play(self, asked: Round, per_row: int) -> NDArray[np.float64]:
        self.rounds.append((asked, len(asked) * per_row))
        return self.game.play(asked).values[:, 0]

    def _draw(self, rows: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Images of each row: fresh ones unless it differs from the one before by one player."""
        drawn = np.zeros((len(rows), IMAGES), np.int64)
        for number, row in enumerate(rows):
            if int((row != self._before).sum()) != 1 or not self._images.any():
                self._images = self.game.facts.pool.draw(self.rng, IMAGES)
            drawn[number], self._before = self._images, row
        return drawn


@dataclass(frozen=True)
class Found:
    """Values of all players, (n_players,), and the rounds that they took, with image passes."""

    values: NDArray[np.float64]
    rounds: list[tuple[Round, int]]


def estimate(name: str, game: Game, *, evaluations: int, seed: int) -> Found:
    """Run an approximator for about so many evaluations of 128 images.

    Raises:
        PeerError: shapiq is not installed, or cannot do it.
    """
    n = game.facts.n_players
    ends = 2 * len(game.facts.pool) // IMAGES
    budget = evaluations - ends + 2
    if name == "shapiq-permutation" and budget < n + 1:
        raise PeerError(f"a permutation takes {n + 1:,} evaluations")
    if name == "shapiq-kernel" and n > _MOST_PLAYERS:
        raise PeerError(f"its binomials overflow beyond {_MOST_PLAYERS:,} players")
    counted = Counted(game, np.random.default_rng([seed, n]))
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = _approximator(name, n, seed).approximate(budget, counted)
            values = np.array([found[(player,)] for player in range(n)], np.float64)
    except (ArithmeticError, MemoryError, ValueError, np.linalg.LinAlgError) as error:
        raise PeerError(f"{type(error).__name__}: {error}") from error
    if not np.isfinite(values).all():
        raise PeerError("its values are not finite")
    return Found(values, counted.rounds)


def _approximator(name: str, n: int, seed: int) -> Any:
    here = Path(__file__).resolve().parent
    # Numba, below shapiq, looks for a package `coverage` and must not be given a benchmark.
    sys.path = [folder for folder in sys.path if Path(folder).resolve() != here]
    try:
        from shapiq.approximator import KernelSHAP, PermutationSamplingSV, StratifiedSamplingSV
    except ImportError as error:
        raise PeerError(f"shapiq is not installed ({error}); install the extra bench") from error
    makers = dict(
        zip(NAMES, (PermutationSamplingSV, StratifiedSamplingSV, KernelSHAP), strict=True)
    )
    return makers[name](n=n, random_state=seed)
