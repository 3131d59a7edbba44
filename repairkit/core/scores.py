"""What an estimator has learnt, and the protocols by which it learns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from repairkit.core.game import GameFacts, Outcomes, Round

_NORMAL_95 = 1.959963984540054
ErrorsOver = Literal["rows", "images"]
"""What errors are stated over: what a run draws on its images, or images like these."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Scores:
    """Values of all players.

    `values`, `std_errors`, `ci_low` and `ci_high` have shape (n_players, n_metrics);
    `samples` (n_players,) counts the marginal contributions behind each value; `decided`
    (n_players,) is true where the run's question is answered for the player at `confidence`.
    `efficient` says whether values add up to V(all) - V(none) but for sampling noise. `joint`
    (n_players, 2) bounds the values of the first metric for all players together, at every look
    that may end the run, at `confidence`; None where no such bounds are known. `errors_over` is
    `images` where the same images would give the same values, or errors hold for others like
    them. `noise` (n_players,) is the part of the first metric's standard errors that another run
    draws anew; all of them if None.
    """

    metrics: tuple[str, ...]
    values: NDArray[np.float64]
    std_errors: NDArray[np.float64]
    ci_low: NDArray[np.float64]
    ci_high: NDArray[np.float64]
    samples: NDArray[np.int64]
    decided: NDArray[np.bool_]
    confidence: float
    interval: str
    efficient: bool = False
    joint: NDArray[np.float64] | None = None
    errors_over: ErrorsOver = "rows"
    noise: NDArray[np.float64] | None = None

    @classmethod
    def plain(
        cls,
        metrics: tuple[str, ...],
        values: NDArray[np.float64],
        std_errors: NDArray[np.float64] | None = None,
        samples: NDArray[np.int64] | None = None,
    ) -> Scores:
        """Values of a run without a question about ranks: no player is decided.

        Args:
            metrics: of the game.
            values: shape (n_players, n_metrics).
            std_errors: of the same shape; unknown, and so infinite, if None.
            samples: shape (n_players,); one each if None.
        """
        errors = np.full(values.shape, np.inf) if std_errors is None else std_errors
        counts = np.ones(len(values), np.int64) if samples is None else samples
        return cls(
            metrics=metrics,
            values=values,
            std_errors=errors,
            ci_low=values - _NORMAL_95 * errors,
            ci_high=values + _NORMAL_95 * errors,
            samples=counts,
            decided=np.zeros(len(values), bool),
            confidence=0.95,
            interval="normal, for one filter at one look",
        )

    def __repr__(self) -> str:
        names = f"{', '.join(self.metrics[:3])}{', ...' if len(self.metrics) > 3 else ''}"
        decided = f"{int(self.decided.sum()):,} decided"
        return f"Scores: {len(self.values):,} players, {decided}, for {names[:200]!r}"

    def ranking(self, metric: int = 0) -> NDArray[np.intp]:
        """Players from the most positive to the most negative; ties by column."""
        return np.argsort(-self.values[:, metric], kind="stable")


def first_metrics(scores: Scores, n_metrics: int) -> Scores:
    """Without further ones, such as a guard that the user did not ask for."""
    return replace(
        scores,
        metrics=scores.metrics[:n_metrics],
        values=scores.values[:, :n_metrics],
        std_errors=scores.std_errors[:, :n_metrics],
        ci_low=scores.ci_low[:, :n_metrics],
        ci_high=scores.ci_high[:, :n_metrics],
    )


class Run(Protocol):
    """One estimation under way.

    Its attributes hold only what a checkpoint can store: numbers, strings, arrays, generators,
    and lists, tuples, dicts and dataclasses of these (see `estimators/driving/checkpoint.py`).
    """

    def ask(self) -> Round:
        """The next round; one of no rows where there is nothing more to learn.

        Asking changes nothing: a run asked twice asks the same.
        """
        ...

    def tell(self, outcomes: Outcomes) -> None: ...

    def read(self) -> Scores: ...


class Estimator(Protocol):
    """The settings of an algorithm."""

    def start(self, facts: GameFacts, rng: np.random.Generator) -> Run: ...


@dataclass(frozen=True)
class Budget:
    """Where an estimation stops at the latest; None is no limit.

    An evaluation is one coalition tried on one batch of images (or on every image).
    """

    max_evaluations: int | None = None
    time_limit_seconds: float | None = None


@dataclass(frozen=True)
class Spent:
    """What an estimation has cost so far."""

    rounds: int = 0
    evaluations: int = 0
    image_passes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Progress:
    """How far a scoring is.

    `seconds_left` and `evaluations_left` are None without a budget, `n_undecided` where counting
    would take long.
    """

    n_filters: int
    n_undecided: int | None
    spent: Spent
    evaluations_per_second: float
    evaluations_left: int | None
    seconds_left: float | None
