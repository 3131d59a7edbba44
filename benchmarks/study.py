"""A trained SqueezeNet under study: its workbench, and what is found out about it once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.squeezenets import Made, make, open_bench
from repairkit.core.game import Round
from repairkit.core.scores import Budget
from repairkit.engine.model_game import ModelGame
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.registry import make_estimator
from repairkit.estimators.walking.permutation import Permutation
from repairkit.jobs.setup.workbench import Bench

Values = NDArray[np.float64]
N_DRAWS = 20
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Effort:
    """How much is spent.

    Attributes:
        per_filter: image passes per filter for the values of accuracy and of every class.
        walks: untruncated walks for the curve.
        evaluations: of 128 images, for each method of the bandit experiment at the most.
        truth_rows: image passes of the long run.
    """

    per_filter: int = 300
    walks: int = 4
    evaluations: int = 12_000
    truth_rows: int = 600_000


QUICK = Effort(per_filter=20, walks=1, evaluations=2_000, truth_rows=20_000)


@dataclass(frozen=True)
class Table:
    """A table of results, with what it shows and how it differs from the paper's."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        head = "| " + " | ".join(self.columns) + " |"
        rule = "|" + "---|" * len(self.columns)
        body = ["| " + " | ".join(map(_shown, row)) + " |" for row in self.rows]
        return "\n".join([f"### {self.title}", "", head, rule, *body, "", *self.notes, ""])


def _shown(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


@dataclass
class Study:
    """A trained network, its workbench and the values of its filters, each found once."""

    made: Made
    effort: Effort
    bench: Bench = field(init=False)

    def __post_init__(self) -> None:
        self.bench = open_bench(self.made)
        self.n_filters = len(self.bench.roster)
        self._found: dict[str, Any] = {}

    def once(self, name: str, find: Callable[[], Any]) -> Any:
        if name not in self._found:
            logger.info("%s: %s", self.made.kind, name)
            self._found[name] = find()
        return self._found[name]

    @property
    def selection(self) -> ModelGame:
        """Accuracy, then the recall of every class, on the selection part."""
        names = ("accuracy", *(f"recall:{i}" for i in range(self.bench.n_classes)))
        return self.once(
            "selection",
            lambda: self.bench.working.game(self.bench.parts.selection, self.bench.metrics(names)),
        )

    @property
    def accuracy(self) -> ModelGame:
        """Accuracy alone, on the selection part."""
        return self.once(
            "accuracy",
            lambda: self.bench.working.game(
                self.bench.parts.selection, self.bench.metrics(("accuracy",))
            ),
        )

    @property
    def test(self) -> ModelGame:
        """As `selection`, on the test part."""
        names = ("accuracy", *(f"recall:{i}" for i in range(self.bench.n_classes)))
        return self.once(
            "test",
            lambda: self.bench.working.game(self.bench.parts.test, self.bench.metrics(names)),
        )

    @property
    def values(self) -> Values:
        """Of accuracy and of every class's recall, (n_filters, 1 + n_classes), by `auto`."""

        def find() -> Values:
            budget = Budget(max_evaluations=self.effort.per_filter * self.n_filters)
            found = estimate(self.selection, make_estimator("auto"), budget=budget, seed=0)
            return found.scores.values

        return self.once("values", find)

    @property
    def curve(self) -> list[list[float]]:
        """Points (removed, walks, V, V) of untruncated walks."""

        def find() -> list[list[float]]:
            budget = Budget(max_evaluations=self.effort.walks * (self.n_filters + 1))
            found = estimate(
                self.accuracy, Permutation(stop="never"), budget=budget, seed=0, with_details=True
            )
            points: list[list[float]] = found.details["curve"]
            return points

        return self.once("curve", find)

    def frozen(self, players: NDArray[np.intp]) -> Values:
        """Accuracy and recalls on the test part with some filters frozen, (1 + n_classes,)."""
        coalition = np.ones((1, self.n_filters), bool)
        coalition[0, players] = False
        values: Values = self.test.play(Round(coalition)).values[0]
        return values

    def frozen_at_random(self, size: int) -> Values:
        """Accuracy on the test part, one for each draw."""
        rng = np.random.default_rng(size)
        draws = (rng.choice(self.n_filters, size, replace=False) for _ in range(N_DRAWS))
        return np.array([self.frozen(players)[0] for players in draws])


@cache
def study(kind: str, effort: Effort) -> Study:
    """Of a kind of network, opened once."""
    return Study(make(kind), effort)
