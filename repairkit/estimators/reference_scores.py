"""Scores for reference: leave-one-out and random ones. Neither is a Shapley value.

Leave-one-out is the loss of the full network with each filter alone. Random scores show the worth
of a ranking without any knowledge.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from repairkit.core.game import GameFacts, Outcomes, Round, SomeImages
from repairkit.core.scores import Scores
from repairkit.estimators.samples import around, joint_bounds, student_quantile

CONFIDENCE = 0.95
_ROWS = 256
Floats = NDArray[np.float64]
MOST_BYTES = 2**28
"""Beyond 256 MiB nothing is kept, and values of some images are unknown."""


@dataclass(frozen=True)
class LeaveOneOut:
    """n + 1 evaluations on every image: the full coalition, then all but one player each."""

    def start(self, facts: GameFacts, rng: np.random.Generator) -> LeaveOneOutRun:  # noqa: ARG002 (the protocol's)
        return LeaveOneOutRun(facts)


class LeaveOneOutRun:
    """`base` holds the scores of the full coalition, (n_images, n_metrics), once known.

    `table` keeps what each image loses, so that values of some images can be computed later.

    An error is stated over the images, from the differences image by image. A metric that never
    varies between images within a row is one figure of all images together. One figure gives no
    error, so it is infinite.
    """

    def __init__(self, facts: GameFacts) -> None:
        self.facts = facts
        self.base = np.zeros((0, facts.n_metrics))
        self.values = np.zeros((facts.n_players, facts.n_metrics))
        self.std_errors = np.full((facts.n_players, facts.n_metrics), np.inf)
        self.varies = np.zeros(facts.n_metrics, bool)
        self.n_known = 0
        self.table = ImageTable.of(facts)

    @property
    def least_evaluations(self) -> int:
        return self.facts.n_players + 1

    @property
    def conclusion(self) -> str:
        return "every player was left out once"

    def ask(self) -> Round:
        return self.ask_ahead(())

    def can_be_told(self, n_rows: int) -> bool:
        """See `driving.driver`: any first rows of a round will do."""
        return n_rows > 0

    def ask_ahead(self, pending: Sequence[Round]) -> Round:
        """See `driving.playing`: no round depends on outcomes."""
        n, asked = self.facts.n_players, sum(map(len, pending))
        # The base row travels with the first players.
        n_base = 0 if len(self.base) or pending else 1
        first = self.n_known + asked - (1 if pending and not len(self.base) else 0)
        players = np.arange(first, min(first + _ROWS - n_base, n))
        rows = np.ones((n_base + len(players) if len(players) else 0, n), bool)
        rows[n_base + np.arange(len(players)), players] = False
        return Round(rows)

    def tell(self, outcomes: Outcomes) -> None:
        scores = outcomes.scores
        if not len(self.base):
            self.base, scores = scores[0].copy(), scores[1:]
            self.varies = np.ptp(self.base, axis=0) > 0
        differences = self.base - scores
        n_images = differences.shape[1]
        self.table.add(differences)
        known = slice(self.n_known, self.n_known + len(scores))
        self.values[known] = differences.mean(axis=1)
        self.varies |= (np.ptp(scores, axis=1) > 0).any(axis=0)
        if n_images > 1:
            self.std_errors[known] = differences.std(axis=1, ddof=1) / math.sqrt(n_images)
        self.n_known += len(scores)

    def on_images(self, some: SomeImages) -> LeaveOneOutRun | None:
        """The same run if there were only these images; None where no table was kept."""
        if not self.table.kept or not len(self.base):
            return None
        part = copy.copy(self)
        part.facts, part.base = some.facts, self.base[some.positions] * some.undrawn
        means, variances = self.table.moments(some)
        part.values = np.zeros_like(self.values)
        part.values[: self.n_known] = means
        part.std_errors = np.full_like(self.std_errors, np.inf)
        part.std_errors[: self.n_known] = np.sqrt(variances / len(some.positions))
        part.varies = (np.ptp(part.base, axis=0) > 0) | (variances > 0).any(axis=0)
        return part

    def read(self) -> Scores:
        """Values of the players left out so far; the others are zero with an infinite error."""
        errors = np.where(self.varies, self.std_errors, np.inf)
        degrees, n = max(len(self.base) - 1, 1), self.facts.n_players
        low, high = around(self.values, student_quantile(CONFIDENCE, degrees) * errors)
        joint = joint_bounds(self.values, errors, 1 - (1 - CONFIDENCE) / n, degrees)
        return Scores(
            metrics=self.facts.metrics,
            values=self.values.copy(),
            std_errors=errors,
            ci_low=low,
            ci_high=high,
            samples=(np.arange(n) < self.n_known).astype(np.int64),
            decided=(joint[:, 0] > 0) | (joint[:, 1] < 0),
            confidence=CONFIDENCE,
            interval=(
                "Student's t over images; decided where it excludes zero for all filters together"
            ),
            joint=joint,
            errors_over="images",
        )


@dataclass
class ImageTable:
    """Differences, full coalition less all but one player, on rows that hold every image.

    `images` and `metrics` (n_pairs,) name the pairs that are kept; `parts` hold
    (n_players_of_a_round, n_pairs) each, players in their order.
    """

    images: NDArray[np.int64]
    metrics: NDArray[np.int64]
    kept: bool
    parts: list[NDArray[np.float32]] = field(default_factory=list)

    @classmethod
    def of(cls, facts: GameFacts) -> ImageTable:
        """Nothing yet; a game of sets, or one that needs more than `MOST_BYTES`, keeps nothing."""
        counts = np.zeros((len(facts.pool), facts.n_metrics), bool)
        for metric, counted in enumerate(facts.images_of or (None,) * facts.n_metrics):
            counts[slice(None) if counted is None else counted, metric] = True
        images, metrics = (numbers.astype(np.int64) for numbers in np.nonzero(counts))
        fits = 4 * len(images) * facts.n_players <= MOST_BYTES
        return cls(images, metrics, fits and not facts.of_sets)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def add(self, differences: Floats) -> None:
        """The next players', (n_players, n_images, n_metrics)."""
        if self.kept:
            self.parts.append(differences[:, self.images, self.metrics].astype(np.float32))

    def moments(self, some: SomeImages) -> tuple[Floats, Floats]:
        """Means and unbiased variances over these images, (n_players, n_metrics) each.

        A variance of one image is infinite.
        """
        n, n_metrics = len(some.positions), some.ratios.shape[1]
        shape = (len(self), n_metrics)
        if not len(self):
            return np.zeros(shape), np.full(shape, np.inf)
        places = np.full(some.n_all, -1, np.int64)
        places[some.positions] = np.arange(n)
        place, table = places[self.images], np.concatenate(self.parts)
        means, variances = np.zeros(shape), np.full(shape, np.inf)
        for metric in range(n_metrics):
            pairs = np.flatnonzero((place >= 0) & (self.metrics == metric))
            differences = table[:, pairs] * some.undrawn[place[pairs], metric]
            means[:, metric] = differences.sum(axis=1) / n
            if n > 1:
                # The other images count nothing, so that they lie at zero.
                off = ((differences - means[:, metric, None]) ** 2).sum(axis=1)
                off += (n - len(pairs)) * means[:, metric] ** 2
                variances[:, metric] = off / (n - 1)
        return means, variances


@dataclass(frozen=True)
class RandomScores:
    """Standard normal values, without any evaluation."""

    def start(self, facts: GameFacts, rng: np.random.Generator) -> RandomRun:
        return RandomRun(facts, rng)


class RandomRun:
    """Values drawn at the start; no round is played."""

    conclusion = "random scores need no evaluation"

    def __init__(self, facts: GameFacts, rng: np.random.Generator) -> None:
        self.facts = facts
        self.values = rng.standard_normal((facts.n_players, facts.n_metrics))

    def ask(self) -> Round:
        return Round.nothing(self.facts.n_players)

    def tell(self, outcomes: Outcomes) -> None:
        assert not len(outcomes.scores), "nothing was asked"

    def on_images(self, some: SomeImages) -> RandomRun:  # noqa: ARG002 (the protocol's)
        """The same run: images play no part."""
        return self

    def read(self) -> Scores:
        n = self.facts.n_players
        return Scores(
            metrics=self.facts.metrics,
            values=self.values,
            std_errors=np.zeros_like(self.values),
            ci_low=self.values,
            ci_high=self.values,
            samples=np.zeros(n, np.int64),
            decided=np.ones(n, bool),
            confidence=1.0,
            interval="none: a random score is no estimate",
        )
