"""Values of some players alone, and how well a ranking held."""

import numpy as np
import pytest

from repairkit.core.errors import BudgetError
from repairkit.core.scores import Budget
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.exact import Exact
from repairkit.estimators.samples import rank_correlation
from repairkit.estimators.walking.confirming_stars import ConfirmingStars, rank_bounds, top_held
from tests.games import TableGame, WatchedGame, any_values, noisy


@pytest.mark.long
@pytest.mark.parametrize("reach", [None, 2])
def test_values_are_shapleys_within_their_intervals(reach: int | None) -> None:
    game = TableGame(noisy(any_values(7, seed=3), noise=0.1))
    truth = estimate(game, Exact(), budget=Budget(), seed=0).scores.values[:, 0]
    covered = []
    for seed in range(30):
        stars = ConfirmingStars(players=(1, 4, 6), reach=reach, batch_size=4)
        scores = estimate(game, stars, budget=Budget(1_600), seed=seed).scores
        inside = (scores.ci_low[:, 0] <= truth) & (truth <= scores.ci_high[:, 0])
        covered += inside[[1, 4, 6]].tolist()
        assert not scores.decided.any()
        assert (scores.samples > 0).nonzero()[0].tolist() == [1, 4, 6]
        assert np.isinf(scores.std_errors[[0, 2, 3, 5]]).all()
    assert np.mean(covered) >= 0.9


def test_only_those_players_are_asked_for() -> None:
    game = WatchedGame(TableGame(noisy(any_values(6), noise=0.1)))
    estimate(game, ConfirmingStars(players=(0, 5), batch_size=4), budget=Budget(60), seed=0)
    for asked in game.rounds:
        changed = (asked.coalitions[0] ^ asked.coalitions[1:]).nonzero()[1]
        assert changed.tolist() == [0, 5]


def test_fewer_stars_than_spread_the_sizes_are_refused() -> None:
    game = TableGame(noisy(any_values(5), noise=0.1))
    with pytest.raises(BudgetError, match="at least 24"):
        estimate(game, ConfirmingStars(players=(0, 1)), budget=Budget(23), seed=0)


def test_the_share_of_the_top_that_stays() -> None:
    rng = np.random.default_rng(0)
    ranked = np.array([5.0, 4, 3, 2, 1, 0])
    same = top_held(ranked, ranked, np.zeros(6), 2, rng)
    assert (same.share, same.low, same.high) == (1, 1, 1)
    turned = top_held(ranked, -ranked, np.zeros(6), 2, rng)
    assert (turned.share, turned.low, turned.high) == (0, 0, 0)
    unsure = top_held(ranked, ranked, np.full(6, 10.0), 2, rng)
    assert unsure.low == 0 < unsure.high


def test_bounds_of_a_rank_correlation_cover_it() -> None:
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(400):
        pairs = rng.multivariate_normal([0, 0], [[1, 0.7], [0.7, 1]], 40)
        low, high = rank_bounds(rank_correlation(*pairs.T), 40)
        covered.append(low <= 6 / np.pi * np.arcsin(0.35) <= high)  # Spearman's of two normals
    assert 0.92 <= np.mean(covered) <= 0.99
    assert rank_bounds(float("nan"), 40) == rank_bounds(0.9, 3) == (-1, 1)
