from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings

from repairkit.core.errors import BudgetError, SettingsError
from repairkit.core.scores import Budget
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.exact import Exact, shapley_values
from tests.games import TableGame, WatchedGame, additive, any_values, noisy, quiet
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
    assert not estimation.scores.std_errors.any()


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
