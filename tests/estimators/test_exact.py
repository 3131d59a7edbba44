from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings

from repairkit.core.errors import BudgetError, SettingsError
from repairkit.core.scores import Budget
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.exact import Exact, shapley_values
from tests.games import TableGame, WatchedGame, additive, any_values, members, noisy, quiet
from tests.strategies import value_tables


def by_permutations(values: np.ndarray) -> np.ndarray:
    """Shapley's values from their other definition: the mean over all orders of arrival."""
    n = len(values).bit_length() - 1
    orders = list(permutations(range(n)))
    totals = np.zeros((n, values.shape[1]))
    for order in orders:
        code = 0
        for player in order:
            totals[player] += values[code | 1 << player] - values[code]
            code |= 1 << player
    return totals / len(orders)


@given(value_tables())
@settings(max_examples=40, deadline=None)
def test_enumeration_equals_the_mean_over_all_permutations(values: np.ndarray) -> None:
    np.testing.assert_allclose(
        shapley_values(values), by_permutations(values), rtol=1e-9, atol=1e-9
    )


def test_the_glove_game_has_its_textbook_values() -> None:
    # Player 0 has a left glove, 1 and 2 right ones; a pair is worth one.
    values = np.array([[float(c & 1 and c & 6 != 0)] for c in range(8)])
    np.testing.assert_allclose(shapley_values(values)[:, 0], [4 / 6, 1 / 6, 1 / 6])


def test_eleven_players_are_asked_in_rounds_of_at_most_1024_rows_on_every_image() -> None:
    shares = np.linspace(-1, 1, 11).tolist()
    game = WatchedGame(TableGame(noisy(additive(shares), noise=0.5, n_images=4)))
    estimation = estimate(game, Exact(), budget=Budget(), seed=0)
    np.testing.assert_allclose(estimation.scores.values[:, 0], shares, atol=1e-12)
    assert [len(round) for round in game.rounds] == [1024, 1024]
    assert all(round.images is None for round in game.rounds)
    assert estimation.finished
    assert estimation.spent.image_passes == 2048 * 4
    assert estimation.scores.decided.all()


def test_more_than_twenty_players_are_refused() -> None:
    facts = TableGame(quiet(any_values(2))).facts
    many = replace(facts, n_players=21)
    with pytest.raises(SettingsError, match="21 players; choose at most 20"):
        Exact().start(many, np.random.default_rng(0))


def test_a_budget_that_does_not_reach_is_refused_before_anything_is_spent() -> None:
    game = WatchedGame(TableGame(quiet(any_values(5))))
    with pytest.raises(BudgetError, match=r"needs 32 .* allows 31; raise it to at least 32"):
        estimate(game, Exact(), budget=Budget(31), seed=0)
    assert not game.rounds


def _population(n: int, n_images: int, seed: int) -> np.ndarray:
    """Right or wrong by a margin from which absent players take, differently from each image."""
    rng = np.random.default_rng(seed)
    losses = np.exp(rng.standard_normal(n))
    losses *= 3 * np.where(np.arange(n) == 1, -1, 1) / losses.sum()
    taken = losses * (1 + 0.8 * rng.standard_normal((n_images, n)))
    margins = 1 + rng.standard_normal(n_images) - (~members(n)) @ taken.T
    scores: np.ndarray = (margins > 0).astype(float)[:, :, None]
    return scores


def test_intervals_hold_the_values_on_many_more_images() -> None:
    held = []
    for seed in range(2):
        population = _population(5, 20_000, seed)
        true = shapley_values(population.mean(axis=1))[:, 0]
        rng = np.random.default_rng(seed)
        for _ in range(60):
            drawn = population[:, rng.choice(20_000, 120, replace=False)]
            end = estimate(TableGame(drawn), Exact(), budget=Budget(), seed=0).scores
            held.append((end.ci_low[:, 0] <= true) & (true <= end.ci_high[:, 0]))
    assert 0.92 <= np.mean(held) <= 0.98


def test_errors_are_those_of_the_jackknife_over_images() -> None:
    scores = _population(4, 40, 3)
    end = estimate(TableGame(scores), Exact(), budget=Budget(), seed=0).scores
    without_one = np.array(
        [shapley_values(np.delete(scores, i, axis=1).mean(axis=1)) for i in range(40)]
    )
    jackknife = np.sqrt(39 / 40 * ((without_one - without_one.mean(axis=0)) ** 2).sum(axis=0))
    np.testing.assert_allclose(end.std_errors, jackknife, rtol=1e-9)
    assert "exact on these images" in end.interval


def test_one_image_tells_nothing_of_others() -> None:
    end = estimate(TableGame(quiet(any_values(3))), Exact(), budget=Budget(), seed=0).scores
    assert end.interval.endswith("no error over images is stated")
    assert not end.std_errors.any()
