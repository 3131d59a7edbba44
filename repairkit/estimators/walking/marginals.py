"""Marginals: what each contender adds at one coalition, over many coalitions of all sizes.

Nothing is truncated, so values are Shapley's. A star asks for one row per player still open
and one more; the intervals hold at every look, as in `tmab`, and the run stops by the same rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core import game, scores
from repairkit.estimators import questions
from repairkit.estimators.samples import (
    BERNSTEIN,
    HalvedSamples,
    Moments,
    around,
    draw_entropy,
    marginal_ranges,
    moments_radius,
    within_range,
)
from repairkit.estimators.walking import stars

_WITHIN = 0.8


@dataclass(frozen=True, kw_only=True)
class Marginals:
    """Which are the top k, with probability at least 1 - delta and up to epsilon.

    Attributes:
        top_k: k; a tenth of the players, 1 to 100, if None.
        side: whether the `highest`, the `lowest` or `both` top k are asked for.
        epsilon: a difference in value that does not matter.
        delta: the probability of a wrong answer.
        value_range: R, the width of what one marginal of the first metric can be; twice the width
            of its values if None.
        batch_size: images of a star. The range's part of an interval shrinks with the number of
            stars, so small batches decide sooner.
        reach: the share of the players whose removal V survives, if known. Four stars in five are
            then drawn within it, and weighted so that nothing is biased.
        contenders_only: whether later stars leave out players that are decided.
        chunk: the most rows in a round.
    """

    top_k: int | None = None
    side: questions.Side = "highest"
    epsilon: float = 1e-3
    delta: float = 0.1
    value_range: float | None = None
    batch_size: int = 16
    reach: float | None = None
    contenders_only: bool = True
    chunk: int = 1024

    def __post_init__(self) -> None:
        questions.check_question(self.top_k, self.side)
        questions.check_real("epsilon", self.epsilon, least=0.0)
        questions.check_positive("delta", self.delta, below=1.0)
        questions.check_whole("batch_size", self.batch_size, least=1)
        questions.check_whole("chunk", self.chunk, least=1)
        if self.value_range is not None:
            questions.check_positive("value_range", self.value_range)
        if self.reach is not None:
            questions.check_positive("reach", self.reach, below=1.0)

    def start(self, facts: game.GameFacts, rng: np.random.Generator) -> MarginalsRun:
        """Begin.

        Raises:
            SettingsError: fewer players than `top_k`, or a metric whose range is not known.
        """
        questions.check_bounded(facts, "marginals", self.value_range)
        return MarginalsRun(facts, self, rng)


class MarginalsRun(questions.TopKRun):
    """`star` is under way; `moments` are those of the `n_stars` that are complete.

    `still_open` (n_players,) are the contenders; `halves` show how far the estimate has come.
    """

    settings: Marginals

    def __init__(
        self, facts: game.GameFacts, settings: Marginals, rng: np.random.Generator
    ) -> None:
        self.facts, self.settings = facts, settings
        self.top_k = questions.settle_top_k(settings.top_k, facts.n_players)
        self.moments = Moments.empty(facts.n_players, facts.n_metrics)
        self.still_open = np.ones(facts.n_players, bool)
        self.entropy = draw_entropy(rng)
        self.n_stars, self.n_evaluations = 0, 0
        self.halves = HalvedSamples.empty(facts.n_players)
        self._begin()

    @property
    def least_evaluations(self) -> int:
        return self.facts.n_players + 1

    @property
    def statistics(self) -> dict[str, float]:
        return {"stars": float(self.n_stars)}

    @property
    def details(self) -> dict[str, Any]:
        return {"convergence": self.halves.as_details()}

    def ask(self) -> game.Round:
        if not self.still_open.any():
            return game.Round.nothing(self.facts.n_players)
        return stars.ask_for_star(self.star, self.settings.chunk)

    def can_be_told(self, n_rows: int) -> bool:
        """See `driving.driver`: a star goes on from wherever it is."""
        return n_rows > 0

    def tell(self, outcomes: game.Outcomes) -> None:
        stars.learn_star(self.star, outcomes.values)
        self.n_evaluations += len(outcomes.values)
        if self.star.done:
            samples = stars.star_marginals(self.star)
            self.moments.add(self.star.players, samples)
            self.halves.add(self.star.players, samples, self.n_evaluations)
            self.n_stars += 1
            self.still_open = self._contested(self.moments.means, self._radius())
            self._begin()

    def _begin(self) -> None:
        everyone = np.ones(self.facts.n_players, bool)
        players = self.still_open if self.settings.contenders_only else everyone
        self.star = stars.begin_star(
            self.facts,
            self.entropy,
            self.n_stars,
            players=np.flatnonzero(players),
            sizes=self._sizes(),
            batch_size=self.settings.batch_size,
        )

    def _sizes(self) -> stars.Sizes:
        n, reach = self.facts.n_players, self.settings.reach
        return (
            stars.Sizes.even(n)
            if reach is None
            else stars.Sizes(n, min(int(reach * n), n - 1), _WITHIN)
        )

    def _radius(self) -> NDArray[np.float64]:
        ranges = marginal_ranges(self.facts, self.settings.value_range)
        weighted = self._sizes().greatest_weight * ranges
        return moments_radius(self.moments, weighted, delta=self.settings.delta, union_bound=True)

    def read(self) -> scores.Scores:
        values = self.moments.means.copy()
        natural = marginal_ranges(self.facts, None)
        low, high = within_range(*around(values, self._radius()), natural)
        # The mean of weighted samples may lie outside the range of a value.
        low, high = np.minimum(low, values), np.maximum(high, values)
        return scores.Scores(
            metrics=self.facts.metrics,
            values=values,
            std_errors=self.moments.std_errors(),
            ci_low=low,
            ci_high=high,
            samples=self.moments.counts.copy(),
            decided=~self.still_open,
            confidence=1 - self.settings.delta,
            interval=f"{BERNSTEIN}, for all filters and looks together",
            efficient=False,
        )
