"""Random scores: what a ranking is worth that knows nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from repairkit.core.game import GameFacts, Outcomes, Round, SomeImages
from repairkit.core.scores import Scores


@dataclass(frozen=True)
class RandomScores:
    """Standard normal values, without any evaluation."""

    def start(self, facts: GameFacts, rng: np.random.Generator) -> RandomRun:
        return RandomRun(facts, rng)


class RandomRun:
    """Drawn at the start, and done."""

    conclusion = "random scores need no evaluation"

    def __init__(self, facts: GameFacts, rng: np.random.Generator) -> None:
        self.facts = facts
        self.values = rng.standard_normal((facts.n_players, facts.n_metrics))

    def ask(self) -> Round:
        return Round.nothing(self.facts.n_players)

    def tell(self, outcomes: Outcomes) -> None:
        assert not len(outcomes.scores), "nothing was asked"

    def on_images(self, some: SomeImages) -> RandomRun:  # noqa: ARG002 (the protocol's)
        """The same: images play no part."""
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
            efficient=False,
        )
