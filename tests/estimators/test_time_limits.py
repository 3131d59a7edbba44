"""Time limits: looked at within a round, and what was known by then counts."""

from pathlib import Path

import numpy as np
import pytest

from repairkit.core.errors import BudgetError
from repairkit.core.game import Outcomes, Round
from repairkit.core.scores import Budget, Estimator
from repairkit.estimators.auto import Auto
from repairkit.estimators.driving.checkpoint import CheckpointStore
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.linear.regression import Regression
from repairkit.estimators.reference_scores import LeaveOneOut
from repairkit.estimators.walking.permutation import Permutation
from tests.games import SoftGame, TableGame, any_values, noisy

SECONDS = 0.01
"""What a pass of an image takes by the clock of these tests."""


class Slow:
    """A game whose passes take time by a clock of its own."""

    def __init__(self, game: SoftGame | TableGame) -> None:
        self.game, self.facts, self.now = game, game.facts, 0.0
        self.rows = 0

    def clock(self) -> float:
        return self.now

    def play(self, round: Round) -> Outcomes:
        n_images = len(self.facts.pool) if round.images is None else round.images.shape[1]
        self.now += SECONDS * len(round) * n_images
        self.rows += len(round)
        return self.game.play(round)


METHODS: dict[str, Estimator] = {
    "regression": Regression(),
    "auto": Auto(),
    "leave-one-out": LeaveOneOut(),
    "permutation": Permutation(batch_size=8, chunk=64),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_long_round_is_cut_where_the_time_is_over(name: str) -> None:
    game = Slow(SoftGame(80, n_images=50))
    end = estimate(game, METHODS[name], budget=Budget(None, 30.0), seed=0, clock=game.clock)
    assert game.now <= 30.0 + 3.0
    assert end.reason == "the time limit of 30 s was reached"
    assert end.spent.evaluations == game.rows
    assert end.scores.samples.any()
    known = end.scores.samples > 0
    assert np.isfinite(end.scores.std_errors[known]).any()


def test_what_was_spent_before_the_first_round_counts() -> None:
    game = Slow(SoftGame(80, n_images=50))
    game.now = 100.0
    estimate(game, Regression(), budget=Budget(None, 50.0), seed=0, clock=game.clock, began=70.0)
    assert 110.0 <= game.now <= 123.0


def test_a_cut_round_can_be_gone_on_from(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoint")
    for limit in (12.0, 40.0):
        game = Slow(SoftGame(80, n_images=50))
        budget = Budget(None, limit)
        end = estimate(
            game, Regression(), budget=budget, seed=0, checkpoint=store, clock=game.clock
        )
    assert end.spent.seconds >= 38.0
    assert end.scores.samples.sum() > 0
    assert np.isfinite(end.scores.std_errors).all()


def test_too_little_time_names_what_would_do() -> None:
    game = Slow(SoftGame(80, n_images=50))
    with pytest.raises(BudgetError, match=r"too early for any score; raise it to about \d+ s"):
        estimate(
            game, Permutation(batch_size=50), budget=Budget(None, 9.0), seed=0, clock=game.clock
        )


def test_without_a_limit_nothing_is_cut() -> None:
    plain, slow = SoftGame(80, n_images=50), Slow(SoftGame(80, n_images=50))
    budget = Budget(3_000)
    one = estimate(plain, Regression(), budget=budget, seed=0)
    limited = Budget(3_000, 10_000.0)
    two = estimate(slow, Regression(), budget=limited, seed=0, clock=slow.clock)
    assert one.scores.values.tobytes() == two.scores.values.tobytes()


def test_a_round_that_is_known_is_not_played_again() -> None:
    table = TableGame(noisy(any_values(5), noise=0.2))
    round = Round(np.stack([np.ones(5, bool), np.zeros(5, bool)]))
    known = (round, table.play(round))
    slow = Slow(table)
    one = estimate(slow, Regression(), budget=Budget(400), seed=0, known=known)
    two = estimate(table, Regression(), budget=Budget(400), seed=0)
    assert slow.rows == one.spent.evaluations - 2
    assert one.scores.values.tobytes() == two.scores.values.tobytes()
