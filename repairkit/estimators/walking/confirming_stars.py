"""Stars of some players alone, for values that another game has ranked; see `marginals`."""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from repairkit.core import game, scores
from repairkit.estimators import questions, samples
from repairkit.estimators.walking import marginals

CONFIDENCE = 0.95
LEAST_STARS = 8  # a cycle, over which sizes are spread evenly
_CHUNK = 1024
_LEAST_PLAYERS = 4  # below, a rank correlation has no error


@dataclass(frozen=True, kw_only=True)
class ConfirmingStars:
    """Shapley values of some players, untruncated and unbiased.

    Attributes:
        players: by column, at least one.
        reach: how many removals V survives, if that is known: four stars in five are drawn within
            it. All sizes evenly if None.
        batch_size: images of a star.
    """

    players: tuple[int, ...]
    reach: int | None = None
    batch_size: int = 16

    def __post_init__(self) -> None:
        questions.check_whole("batch_size", self.batch_size, least=1)

    def start(self, facts: game.GameFacts, rng: np.random.Generator) -> "ConfirmingStarsRun":
        """Begin."""
        return ConfirmingStarsRun(facts, self, rng)


class ConfirmingStarsRun:
    """`star` is under way; `moments` are those of the `n_stars` that are complete."""

    endless = True

    def __init__(
        self, facts: game.GameFacts, settings: ConfirmingStars, rng: np.random.Generator
    ) -> None:
        self.facts, self.settings = facts, settings
        self.moments = samples.Moments.empty(facts.n_players, facts.n_metrics)
        self.entropy = samples.draw_entropy(rng)
        self.n_stars = 0
        self._begin()

    @property
    def least_evaluations(self) -> int:
        """Of as many stars as spread the sizes evenly; below, an error says little."""
        return LEAST_STARS * (len(self.settings.players) + 1)

    @property
    def n_undecided(self) -> int | None:
        """Nothing is decided."""
        return None

    def ask(self) -> game.Round:
        return marginals.ask_for_star(self.star, _CHUNK)

    def tell(self, outcomes: game.Outcomes) -> None:
        marginals.learn_star(self.star, outcomes.values)
        if self.star.done:
            self.moments.add(self.star.players, marginals.star_marginals(self.star))
            self.n_stars += 1
            self._begin()

    def _begin(self) -> None:
        n, reach = self.facts.n_players, self.settings.reach
        within = None if reach is None or reach >= n else reach
        self.star = marginals.begin_star(
            self.facts,
            self.entropy,
            self.n_stars,
            players=np.array(self.settings.players, np.int64),
            sizes=marginals.Sizes.even(n) if within is None else marginals.Sizes(n, within, 0.8),
            batch_size=self.settings.batch_size,
        )

    def read(self) -> scores.Scores:
        """Values and errors; of players that were not sampled, zero and infinity."""
        counts = self.moments.counts
        known: NDArray[np.bool_] = counts >= LEAST_STARS
        errors = np.where(known[:, None], self.moments.std_errors(), np.inf)
        values = np.where(known[:, None], self.moments.means, 0.0)
        # Sizes are spread evenly over every eight stars, so that these errors are a little wide.
        quantile = samples.student_quantile(CONFIDENCE, max(self.n_stars - 1, 1))
        low, high = samples.around(values, quantile * errors)
        return scores.Scores(
            metrics=self.facts.metrics,
            values=values,
            std_errors=errors,
            ci_low=low,
            ci_high=high,
            samples=np.where(known, counts, 0),
            decided=np.zeros(len(values), bool),
            confidence=CONFIDENCE,
            interval="Student's t over stars, for one filter at one look",
        )


@dataclass(frozen=True, kw_only=True)
class Held:
    """How well a ranking held, with bounds of 95 %.

    Attributes:
        share: of the first k of one ranking that are among the first k of the other.
        low: its lower bound.
        high: its upper bound.
    """

    share: float
    low: float
    high: float


def top_held(
    ranked: NDArray[np.float64],
    values: NDArray[np.float64],
    errors: NDArray[np.float64],
    k: int,
    rng: np.random.Generator,
) -> Held:
    """The share of the top k by `ranked` that is in the top k by `values`.

    The bounds are quantiles over draws of the values within their errors.

    Args:
        ranked: one number per player, which chose.
        values: measured afterwards.
        errors: standard errors of these.
        k: at most the number of players.
        rng: of the draws.
    """
    chosen = np.argsort(-ranked, kind="stable")[:k]

    def shares(columns: NDArray[np.float64]) -> NDArray[np.float64]:
        tops = np.argsort(-columns, axis=1, kind="stable")[:, :k]
        held: NDArray[np.float64] = np.isin(tops, chosen).sum(axis=1) / k
        return held

    draws = values + errors * rng.standard_normal((2000, len(values)))
    low, high = np.quantile(shares(draws), [0.025, 0.975])
    share = float(shares(values[None])[0])
    return Held(share=share, low=min(float(low), share), high=max(float(high), share))


def rank_bounds(correlation: float, n: int) -> tuple[float, float]:
    """Bounds of 95 % of a rank correlation over `n` players.

    By Fisher's transformation, with the error of Bonett & Wright (2000), "Sample size requirements
    for estimating Pearson, Kendall and Spearman correlations".
    """
    if not np.isfinite(correlation) or n < _LEAST_PLAYERS:
        return -1.0, 1.0
    clipped = float(np.clip(correlation, -1 + 1e-9, 1 - 1e-9))
    error = np.sqrt((1 + clipped**2 / 2) / (n - 3))
    middle, half = np.arctanh(clipped), NormalDist().inv_cdf(0.975) * error
    low, high = np.tanh([middle - half, middle + half])
    return float(low), float(high)
