from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from repairkit.core.errors import BudgetError, SettingsError
from repairkit.core.game import GameFacts, Outcomes, Round
from repairkit.core.scores import Budget, Run, Scores, Spent
from repairkit.estimators.driving.checkpoint import CheckpointStore
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.exact import Exact
from repairkit.estimators.reference_scores import RandomScores
from repairkit.estimators.walking.permutation import Permutation
from tests.games import TableGame, WatchedGame, any_values, noisy, quiet

WALKS = Permutation(batch_size=4, chunk=3)


class Clock:
    """Seconds that pass only when a round is played."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def tick(self, _: int) -> None:
        self.now += 1.0


def table() -> TableGame:
    return TableGame(noisy(any_values(5), noise=0.2))


class Fragile:
    """Its runs are interrupted in the midst of learning."""

    def start(self, facts: GameFacts, rng: np.random.Generator) -> FragileRun:
        return FragileRun(facts, rng)


class FragileRun:
    def __init__(self, facts: GameFacts, rng: np.random.Generator) -> None:
        self.facts, self.rng = facts, rng
        self.n_told = 0

    def ask(self) -> Round:
        return Round(np.ones((1, self.facts.n_players), bool))

    def tell(self, outcomes: Outcomes) -> None:
        self.n_told += len(outcomes.scores)
        if self.n_told == 3:
            raise KeyboardInterrupt

    def read(self) -> Scores:
        return RandomScores().start(self.facts, self.rng).read()


def test_the_reason_says_what_ended_the_run() -> None:
    exact = estimate(table(), Exact(), budget=Budget(), seed=0)
    assert (exact.finished, exact.reason) == (True, "every coalition was evaluated")
    spent = estimate(table(), WALKS, budget=Budget(5_000), seed=0)
    assert (spent.finished, spent.reason) == (False, "the budget of 5,000 evaluations is spent")
    random = estimate(table(), RandomScores(), budget=Budget(), seed=0)
    assert (random.finished, random.reason) == (True, "random scores need no evaluation")
    assert random.spent.rounds == 0


def test_the_time_limit_is_looked_at_between_rounds() -> None:
    clock = Clock()
    game = WatchedGame(table(), clock.tick)
    end = estimate(game, WALKS, budget=Budget(None, 7.5), seed=0, clock=clock)
    assert (end.finished, end.reason) == (False, "the time limit of 7.5 s was reached")
    assert end.spent.rounds == 8
    assert end.spent.seconds == 8.0


def test_one_round_is_played_however_short_the_time() -> None:
    with pytest.raises(BudgetError, match="the time limit of 0 s was reached, and that is too"):
        estimate(table(), WALKS, budget=Budget(None, 0.0), seed=0)


def test_seconds_before_a_resumption_count(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoint")
    for limit, rounds in ((5.0, 5), (8.0, 8), (2.0, 8)):
        clock = Clock()
        game = WatchedGame(table(), clock.tick)
        budget = Budget(None, limit)
        end = estimate(game, WALKS, budget=budget, seed=0, checkpoint=store, clock=clock)
        assert end.spent.rounds == rounds
        assert end.spent.seconds == rounds


def test_a_finished_run_resumes_to_itself_without_playing(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoint")
    first = estimate(table(), Exact(), budget=Budget(), seed=0, checkpoint=store)
    game = WatchedGame(table())
    again = estimate(game, Exact(), budget=Budget(), seed=0, checkpoint=store)
    assert not game.rounds
    assert again.scores.values.tobytes() == first.scores.values.tobytes()
    assert again.spent == first.spent


def test_a_larger_budget_goes_on_where_the_smaller_ended(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoint")
    for budget in (Budget(50), Budget(500)):
        grown = estimate(table(), WALKS, budget=budget, seed=0, checkpoint=store)
    at_once = estimate(table(), WALKS, budget=Budget(500), seed=0)
    assert grown.scores.values.tobytes() == at_once.scores.values.tobytes()
    assert grown.spent.evaluations == at_once.spent.evaluations


def test_checkpoints_are_saved_now_and_then(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "checkpoint"
    seen: list[bool] = []

    def watch(round_number: int) -> None:
        clock.tick(round_number)
        seen.append(path.exists())

    store = CheckpointStore(path, every_seconds=3.0)
    game = WatchedGame(table(), watch)
    estimate(game, WALKS, budget=Budget(18), seed=0, checkpoint=store, clock=clock)
    assert seen == [False, False, False, True, True, True]


def test_what_is_interrupted_while_it_learns_is_not_saved(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoint", every_seconds=1e9)
    with pytest.raises(KeyboardInterrupt):
        estimate(table(), Fragile(), budget=Budget(500), seed=0, checkpoint=store)
    assert not store.path.exists()


def test_an_interruption_between_rounds_is_saved(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoint", every_seconds=1e9)

    def stop(_: Run, spent: Spent) -> None:
        if spent.rounds == 4:
            raise KeyboardInterrupt

    budget = Budget(100)
    with pytest.raises(KeyboardInterrupt):
        estimate(table(), WALKS, budget=budget, seed=0, on_round=stop, checkpoint=store)
    game = WatchedGame(table())
    resumed = estimate(game, WALKS, budget=budget, seed=0, checkpoint=store)
    assert len(game.rounds) == resumed.spent.rounds - 4


def test_every_round_is_reported() -> None:
    seen: list[int] = []

    def report(run: Run, spent: Spent) -> None:
        assert run.read().values.shape == (5, 1)
        seen.append(spent.evaluations)

    end = estimate(table(), WALKS, budget=Budget(20), seed=0, on_round=report)
    assert seen == [3, 6, 9, 12, 15, 18]
    assert end.spent.evaluations == 18


def test_image_passes_are_rows_times_images() -> None:
    assert estimate(table(), Exact(), budget=Budget(), seed=0).spent.image_passes == 32 * 32
    assert estimate(table(), WALKS, budget=Budget(12), seed=0).spent.image_passes == 12 * 4


def test_a_round_beyond_the_budget_is_refused() -> None:
    cut = Permutation(chunk=6, truncate_at=0.0)
    with pytest.raises(
        BudgetError,
        match="one round needs 6 evaluations and the budget allows 5; raise it to at least 6",
    ):
        estimate(table(), cut, budget=Budget(5), seed=0)


def test_an_endless_run_needs_a_budget() -> None:
    with pytest.raises(BudgetError, match="never ends by itself"):
        estimate(table(), Permutation(stop="never"), budget=Budget(), seed=0)


def test_values_that_are_not_finite_are_refused() -> None:
    broken = quiet(any_values(3, 2))
    broken[5, :, 1] = np.nan
    with pytest.raises(SettingsError, match="metric1 is not finite"):
        estimate(TableGame(broken, widths=(1.0, 1.0)), Exact(), budget=Budget(), seed=0)


def test_a_game_without_players_is_refused() -> None:
    with pytest.raises(SettingsError, match="no players"):
        estimate(TableGame(np.zeros((1, 1, 1))), Exact(), budget=Budget(), seed=0)


def test_an_estimator_of_the_users_that_starts_nothing_is_told_what_a_run_has() -> None:
    class Forgetful:
        def start(self, facts: GameFacts, rng: np.random.Generator) -> None:
            """The run is made here and not returned."""

    game = TableGame(quiet(any_values(3)))
    with pytest.raises(SettingsError, match="Forgetful gave a NoneType without ask, tell, read;"):
        estimate(game, Forgetful(), budget=Budget(10), seed=0)  # type: ignore[arg-type]  # so it is
