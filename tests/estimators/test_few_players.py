"""Few players: intervals of the methods that sample must hold the values that enumeration gives."""

import numpy as np
import pytest

from repairkit.core.game import Outcomes, Round
from repairkit.core.scores import Budget, Estimator
from repairkit.estimators.auto import Auto
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.exact import shapley_values
from repairkit.estimators.linear.drawing import falls_below, pilot_sizes
from repairkit.estimators.linear.regression import FEW_PLAYERS, Regression
from tests.games import SoftGame, TableGame, members


def network(n_players: int, seed: int, n_images: int = 120) -> TableGame:
    """Right or wrong by a margin: filters of very different weight, some harmful, in pairs too."""
    rng = np.random.default_rng(seed)
    losses = np.exp(rng.standard_normal(n_players))
    losses[rng.random(n_players) < 0.25] *= -1
    losses *= 3 / max(abs(losses.sum()), 1)
    by_image = losses * (1 + 0.5 * rng.standard_normal((n_images, n_players)))
    pairs = rng.standard_normal((n_players, n_players)) * 0.5 / np.sqrt(n_players)
    out = (~members(n_players)).astype(float)
    margins = 1.5 + rng.standard_normal(n_images) - out @ by_image.T
    margins -= ((out @ pairs) * out).sum(axis=1)[:, None]
    return TableGame((margins > 0).astype(float)[:, :, None])


@pytest.mark.parametrize("estimator", [Regression(), Auto()], ids=["regression", "auto"])
def test_intervals_hold_the_exact_values(estimator: Estimator) -> None:
    held, budgets = [], (300, 2_000)
    for n_players in (3, 4, 6, 9, 12):
        for seed in range(4):
            game = network(n_players, 10 * n_players + seed)
            true = shapley_values(game.values)[:, 0]
            found = estimate(game, estimator, budget=Budget(budgets[seed % 2]), seed=seed).scores
            low, high = found.ci_low[:, 0], found.ci_high[:, 0]
            held.append(np.mean((low - 1e-9 <= true) & (true <= high + 1e-9)))
    assert np.mean(held) >= 0.92


def test_values_of_few_players_add_up() -> None:
    game = network(8, 1)
    found = estimate(game, Regression(), budget=Budget(800), seed=0).scores
    assert found.efficient
    assert found.values.sum() == pytest.approx(game.values[-1, 0] - game.values[0, 0])


class Rising:
    """Many players; V falls while they leave, and an empty network does nearly as well as all."""

    def __init__(self, n_players: int) -> None:
        self.inner = SoftGame(n_players, seed=2)
        self.facts = self.inner.facts

    def play(self, round: Round) -> Outcomes:
        outcomes = self.inner.play(round)
        gone = (~round.coalitions).mean(axis=1)[:, None, None]
        return Outcomes(outcomes.scores * (1 - gone) + gone**2)


def test_where_v_falls_below_v_none_no_size_is_left_out() -> None:
    n = FEW_PLAYERS + 20
    rising = estimate(Rising(n), Regression(), budget=Budget(2_000), seed=0)
    assert rising.statistics["most_removed"] == n - 1
    assert rising.scores.efficient
    usual = estimate(SoftGame(n, seed=2), Regression(), budget=Budget(2_000), seed=0)
    assert not usual.scores.efficient
    assert "cut off" in usual.scores.interval


def test_noise_alone_is_no_fall() -> None:
    rng = np.random.default_rng(0)
    sizes = pilot_sizes(100, 512)
    falls = [falls_below(sizes, (rng.random(512) < 0.3).astype(float), 0.3) for _ in range(200)]
    assert np.mean(falls) < 0.05
