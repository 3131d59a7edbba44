"""Few players: intervals of the methods that sample must hold the values that enumeration gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repairkit.core.game import GameFacts, ImagePool, Outcomes, Round
from repairkit.core.scores import Budget, Estimator
from repairkit.estimators.auto import Auto
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.exact import shapley_values
from repairkit.estimators.linear.drawing import Level, falls_below, pilot_sizes
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


@pytest.mark.parametrize("chance", [0.001, 0.02, 0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("n_rows", [64, 512])
def test_noise_alone_is_no_fall(chance: float, n_rows: int) -> None:
    """However rare a right answer by chance is: rows that show none are no proof that V is 0."""
    rng = np.random.default_rng(0)
    sizes = pilot_sizes(100, n_rows)
    none = Level(chance, np.sqrt(chance * (1 - chance)))
    drawn = (rng.random((200, n_rows)) < chance).astype(float)
    assert np.mean([falls_below(sizes, values, none) for values in drawn]) < 0.05


@given(st.integers(0, 2**16), st.floats(-5, 5), st.floats(0.1, 10))
@settings(max_examples=30, deadline=None)
def test_a_fall_does_not_depend_on_units_or_the_order_of_rows(
    seed: int, origin: float, unit: float
) -> None:
    rng = np.random.default_rng(seed)
    sizes, values = pilot_sizes(50, 120), rng.standard_normal(120)
    none = Level(0.4, 0.5)
    said = falls_below(sizes, values, none)
    order = rng.permutation(120)
    scaled = Level(origin + unit * none.value, unit * none.spread)
    assert falls_below(sizes[order], origin + unit * values[order], scaled) == said


def test_neighbours_together_show_a_fall_that_none_shows_alone() -> None:
    rng = np.random.default_rng(1)
    sizes = pilot_sizes(1_000, 512)
    grid = np.unique(sizes)
    chances = np.where(sizes < grid[3], 0.9, np.where(sizes < grid[8], 0.15, 0.3))
    none = Level(0.3, np.sqrt(0.3 * 0.7))
    runs = (rng.random((100, 512)) < chances).astype(float)
    together = [falls_below(sizes, values, none) for values in runs]
    alone = [any(falls_below(sizes[k], v[k], none) for k in sizes == grid[:, None]) for v in runs]
    assert np.mean(together) > 0.9
    assert np.mean(alone) < 0.6


def test_rows_of_the_empty_network_have_its_own_spread() -> None:
    rng = np.random.default_rng(2)
    weights = rng.random(40)
    pool = ImagePool(weights / weights.sum(), np.zeros(40, np.int64))
    by_image = rng.standard_normal(40)
    drawn = by_image[rng.choice(40, (100_000, 4), p=pool.probabilities)].mean(axis=1)
    none = Level.of(pool, by_image, 4)
    assert none.value == pytest.approx(drawn.mean(), abs=0.01)
    assert none.spread == pytest.approx(drawn.std(), rel=0.02)


def test_a_network_of_many_classes_keeps_its_sizes() -> None:
    """Right by chance in one case of fifty: the whole law would cost several times the rows."""
    game = SimulatedChance(FEW_PLAYERS + 20, chance=0.02)
    most = {
        estimate(game, Regression(), budget=Budget(800), seed=seed).statistics["most_removed"]
        for seed in range(6)
    }
    assert max(most) < game.facts.n_players - 1


class SimulatedChance:
    """V falls evenly to chance, where a tenth of the players is left, and stays there."""

    def __init__(self, n_players: int, chance: float) -> None:
        self.luck = np.arange(500) < 500 * chance
        self.facts = GameFacts(
            n_players=n_players,
            metrics=("accuracy",),
            score_widths=(1.0,),
            pool=ImagePool.uniform(len(self.luck)),
        )

    def play(self, round: Round) -> Outcomes:
        everyone = np.broadcast_to(np.arange(len(self.luck)), (len(round), len(self.luck)))
        images = everyone if round.images is None else round.images
        left = round.coalitions.mean(axis=1)[:, None]
        strong = (images * 7919 % 500) / 500 > 2 * (1 - left) + 0.02
        return Outcomes((strong | self.luck[images]).astype(float)[:, :, None])
