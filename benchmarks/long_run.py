"""The truth about a game that answers 0 or 1 per image: a long run over coalitions of all sizes.

With j players absent, drawn evenly among all such coalitions, a player's share of the value is the
mean over j of E[V | present, j] - E[V | absent, j], plus (V(all) - V(none)) / n. So every coalition
tells of every player, and sizes may be drawn as one likes, if a row is weighted by how seldom its
size is drawn. What may be known of size and image beforehand is taken out of an outcome first: it
adds nothing to either mean. There is no truncation, no model and no penalty: nothing is biased.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repairkit.core.game import Coalitions, Game, Round

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Answer = Callable[[Coalitions, Ints], Floats]
"""Outcomes (n_rows,) of coalitions, each on the image beside it."""

logger = logging.getLogger(__name__)

_BLOCK = 4_096
_BINS = 24
_PILOT_ROWS = 16_384
_TRUSTED_AFTER = 8.0


@dataclass(frozen=True)
class Part:
    """Values and their standard errors, (n_players,), from one run of so many image passes."""

    values: Floats
    errors: Floats
    image_passes: int


@dataclass(frozen=True)
class Truth:
    """Shapley values and their standard errors, (n_players,), and what they took.

    `halves` (2, n_players) are the values of the two runs that the truth is the mean of.
    """

    values: Floats
    errors: Floats
    halves: Floats
    image_passes: int

    @classmethod
    def of(cls, first: Part, second: Part) -> Truth:
        halves = np.stack([first.values, second.values])
        errors = np.hypot(first.errors, second.errors) / 2
        return cls(halves.mean(axis=0), errors, halves, first.image_passes + second.image_passes)

    @property
    def reliability(self) -> float:
        """The correlation with another such truth, from that of the halves (Spearman-Brown)."""
        halves = float(np.corrcoef(self.halves)[0, 1])
        return 2 * halves / (1 + halves)


def one_by_one(game: Game) -> Answer:
    """Rounds of one image per row."""

    def answer(coalitions: Coalitions, images: Ints) -> Floats:
        scores: Floats = game.play(Round(coalitions, images[:, None])).scores[:, 0, 0]
        return scores

    return answer


def absent(rng: np.random.Generator, sizes: Ints, n: int) -> NDArray[np.bool_]:
    """For each size a random set of as many players, (n_rows, n_players)."""
    ranks = rng.permuted(np.tile(np.arange(n, dtype=np.int32), (len(sizes), 1)), axis=1)
    lacking: NDArray[np.bool_] = ranks < sizes[:, None]
    return lacking


class _Expected:
    """What is known of an outcome from its size and its image, of rows met before."""

    def __init__(self, n_players: int, n_images: int) -> None:
        # Narrow where V falls: bins are even in the square root of the share absent.
        places = np.sqrt(np.arange(n_players + 1) / n_players)
        self.bins = np.minimum((places * _BINS).astype(np.int64), _BINS - 1)
        self.sums = np.zeros((n_images, _BINS))
        self.counts = np.zeros((n_images, _BINS))

    def of(self, sizes: Ints, images: Ints) -> Floats:
        """Shape (n_rows,): the image's own mean, drawn towards that of all images."""
        bins = self.bins[sizes]
        overall = self.sums.sum(axis=0) / np.maximum(self.counts.sum(axis=0), 1)
        of_image, count = self.sums[images, bins], self.counts[images, bins]
        expected: Floats = (of_image + _TRUSTED_AFTER * overall[bins]) / (count + _TRUSTED_AFTER)
        return expected

    def learn(self, sizes: Ints, images: Ints, outcomes: Floats) -> None:
        np.add.at(self.sums, (images, self.bins[sizes]), outcomes)
        np.add.at(self.counts, (images, self.bins[sizes]), 1.0)

    def spread(self) -> Floats:
        """The standard deviation of outcomes at each size 0 ... n_players, never quite zero."""
        share = self.sums.sum(axis=0) / np.maximum(self.counts.sum(axis=0), 1)
        spread: Floats = np.sqrt(share * (1 - share) + 0.005)[self.bins]
        return spread


def long_run(
    answer: Answer, ends: tuple[float, float], shape: tuple[int, int], *, n_rows: int, seed: int
) -> Part:
    """Play about so many rows.

    Args:
        answer: plays rows.
        ends: V(all) and V(none).
        shape: the numbers of players and of images.
        n_rows: rounded to whole blocks, at least one.
        seed: of all that is drawn.
    """
    n, n_images = shape
    rng = np.random.default_rng(seed)
    expected = _Expected(n, n_images)
    pilot = np.maximum((rng.random(_PILOT_ROWS) ** 2 * n).astype(np.int64), 1)
    drawn = rng.integers(0, n_images, _PILOT_ROWS)
    expected.learn(pilot, drawn, answer(~absent(rng, pilot, n), drawn))
    sizes = np.arange(1, n)
    # The least variance for a number of rows.
    wanted = expected.spread()[1:n] / np.sqrt(sizes * (n - sizes))
    wanted /= wanted.sum()
    n_blocks, began = max(1, round(n_rows / _BLOCK)), time.monotonic()
    sums, squares = np.zeros(n), np.zeros(n)
    for block in range(n_blocks):
        j = rng.choice(sizes, _BLOCK, p=wanted)
        images = rng.integers(0, n_images, _BLOCK)
        lacking = absent(rng, j, n)
        outcomes = answer(~lacking, images)
        rest = (outcomes - expected.of(j, images)) / wanted[j - 1]
        expected.learn(j, images, outcomes)
        present, missing = rest / (n - j), -rest / j
        marks = lacking.astype(np.float32)
        sums += present.sum() + (missing - present) @ marks
        squares += (present**2).sum() + (missing**2 - present**2) @ marks
        if block % 100 == 0:
            logger.info("block %d of %d, %.0f s", block, n_blocks, time.monotonic() - began)
    total = n_blocks * _BLOCK
    values = sums / total
    errors = np.sqrt(np.maximum(squares / total - values**2, 0.0) / total)
    return Part((ends[0] - ends[1]) / n + values, errors, total + _PILOT_ROWS)


def cached(path: Path, compute: Callable[[], Truth]) -> Truth:
    """The truth in this file, or computed and left there."""
    if not path.exists():
        truth = compute()
        path.parent.mkdir(exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **vars(truth))
        partial.replace(path)
    with np.load(path) as stored:
        parts = stored["values"], stored["errors"], stored["halves"]
        return Truth(*parts, int(stored["image_passes"]))
