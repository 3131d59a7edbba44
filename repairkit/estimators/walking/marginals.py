"""Marginals: what each contender adds at one coalition, over many coalitions of all sizes.

Nothing is truncated, so values are Shapley's. The intervals hold at every look, as in `tmab`, and
the run stops by the same rule.

A star is one random coalition, and beside it each with one player changed. All its marginals are
taken at the same coalition on the same images. So noise that they share cancels when players are
compared, and an engine recomputes only what one player can reach. With a size uniform over 0 ... n,
V(S + i) - V(S - i) is an unbiased sample of every player's Shapley value (comparable marginal
contributions sampling; Kolpaczki, Nielen & Huellermeier 2025, "Antithetic Sampling for Top-k
Shapley Identification").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core import game, scores
from repairkit.estimators import questions, samples

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_CYCLE = 8
_WITHIN = 0.8


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
    facts: game.GameFacts,
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


def ask_for_star(star: Star, chunk: int) -> game.Round:
    """The next `chunk` rows; the coalition itself is the first."""
    rows = np.arange(star.n_known, min(star.n_known + chunk, len(star.values)))
    coalitions: game.Coalitions = np.repeat(star.present[None], len(rows), axis=0)
    beside = rows > 0
    changed = star.players[rows[beside] - 1]
    coalitions[np.flatnonzero(beside), changed] ^= True
    return game.Round(coalitions, np.broadcast_to(star.images, (len(rows), len(star.images))))


def learn_star(star: Star, values: Floats) -> None:
    """Take the values of the round of `ask_for_star`."""
    star.values[star.n_known : star.n_known + len(values)] = values
    star.n_known += len(values)


def star_marginals(star: Star) -> Floats:
    """Weighted samples of the players' values, (n_sampled, n_metrics)."""
    signs = np.where(star.present[star.players], 1.0, -1.0)[:, None]
    samples: Floats = star.weight * signs * (star.values[0] - star.values[1:])
    return samples


@dataclass(frozen=True, kw_only=True)
class Marginals:
    """Which are the top k, with probability at least 1 - delta and up to epsilon.

    Attributes:
        top_k, side, epsilon, delta, value_range: see `Tmab`.
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
        """Begin; SettingsError for fewer players than `top_k`, or a metric of unknown range."""
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
        self.moments = samples.Moments.empty(facts.n_players, facts.n_metrics)
        self.still_open = np.ones(facts.n_players, bool)
        self.entropy = samples.draw_entropy(rng)
        self.n_stars, self.n_evaluations = 0, 0
        self.halves = samples.HalvedSamples.empty(facts.n_players)
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
        return ask_for_star(self.star, self.settings.chunk)

    def can_be_told(self, n_rows: int) -> bool:
        """See `driving.driver`: a star goes on from wherever it is."""
        return n_rows > 0

    def tell(self, outcomes: game.Outcomes) -> None:
        learn_star(self.star, outcomes.values)
        self.n_evaluations += len(outcomes.values)
        if self.star.done:
            losses = star_marginals(self.star)
            self.moments.add(self.star.players, losses)
            self.halves.add(self.star.players, losses, self.n_evaluations)
            self.n_stars += 1
            self.still_open = self._contested(self.moments.means, self._radius())
            self._begin()

    def _begin(self) -> None:
        all_players = np.ones(self.facts.n_players, bool)
        players = self.still_open if self.settings.contenders_only else all_players
        self.star = begin_star(
            self.facts,
            self.entropy,
            self.n_stars,
            players=np.flatnonzero(players),
            sizes=self._sizes(),
            batch_size=self.settings.batch_size,
        )

    def _sizes(self) -> Sizes:
        n, reach = self.facts.n_players, self.settings.reach
        return Sizes.even(n) if reach is None else Sizes(n, min(int(reach * n), n - 1), _WITHIN)

    def _radius(self) -> NDArray[np.float64]:
        ranges = samples.marginal_ranges(self.facts, self.settings.value_range)
        weighted = self._sizes().greatest_weight * ranges
        delta = self.settings.delta
        return samples.moments_radius(self.moments, weighted, delta=delta, union_bound=True)

    def read(self) -> scores.Scores:
        values = self.moments.means.copy()
        natural = samples.marginal_ranges(self.facts, None)
        low, high = samples.within_range(*samples.around(values, self._radius()), natural)
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
            interval=f"{samples.BERNSTEIN}, for all filters and looks together",
            joint=np.stack([low[:, 0], high[:, 0]], axis=1),
        )
