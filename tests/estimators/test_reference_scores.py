import numpy as np

from repairkit.core.game import GameFacts, ImagePool, Outcomes, Round
from repairkit.core.scores import Budget
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.linear.repair_values import RepairRegression, RepairRun
from repairkit.estimators.reference_scores import LeaveOneOut
from tests.games import SoftGame, TableGame, WatchedGame, additive, any_values, noisy, quiet


def test_each_value_is_what_the_full_coalition_loses_without_the_player() -> None:
    values = any_values(6, 2)
    game = WatchedGame(TableGame(noisy(values, noise=0.1)))
    estimation = estimate(game, LeaveOneOut(), budget=Budget(), seed=0)
    full = 63
    expected = [values[full] - values[full ^ (1 << player)] for player in range(6)]
    np.testing.assert_allclose(estimation.scores.values, expected, atol=1e-12)
    assert [len(round) for round in game.rounds] == [7]
    assert game.rounds[0].coalitions[0].all()
    assert not estimation.scores.efficient


def test_many_players_are_asked_in_rounds_and_the_full_coalition_once() -> None:
    class Many:
        facts = GameFacts(
            n_players=300, metrics=("m",), score_widths=(1.0,), pool=ImagePool.uniform(1)
        )

        def play(self, round: Round) -> Outcomes:
            return Outcomes(round.coalitions.mean(axis=1)[:, None, None])

    game = WatchedGame(Many())
    scores = estimate(game, LeaveOneOut(), budget=Budget(), seed=0).scores
    assert [len(round) for round in game.rounds] == [256, 45]
    assert sum(round.coalitions.all(axis=1).sum() for round in game.rounds) == 1
    np.testing.assert_allclose(scores.values, 1 / 300)


def test_errors_are_those_of_paired_differences_over_images() -> None:
    table = noisy(any_values(3), noise=0.3, n_images=20)
    scores = estimate(TableGame(table), LeaveOneOut(), budget=Budget(), seed=0).scores
    differences = table[7, :, 0] - table[7 ^ 2, :, 0]
    np.testing.assert_allclose(scores.std_errors[1, 0], differences.std(ddof=1) / 20**0.5)
    # Student's t of 19 degrees of freedom at 95 %.
    width = scores.ci_high[1, 0] - scores.ci_low[1, 0]
    np.testing.assert_allclose(width, 2 * 2.0930 * scores.std_errors[1, 0], rtol=1e-4)


def test_decided_are_those_whose_interval_excludes_zero() -> None:
    table = noisy(additive([1.0, 0.0, -1.0]), noise=0.1)
    scores = estimate(TableGame(table), LeaveOneOut(), budget=Budget(), seed=0).scores
    assert scores.decided.tolist() == [True, False, True]


def test_no_error_is_told_from_one_figure_of_all_images() -> None:
    table = quiet(additive([1.0, 2.0]), n_images=9)
    scores = estimate(TableGame(table), LeaveOneOut(), budget=Budget(), seed=0).scores
    np.testing.assert_allclose(scores.values[:, 0], [1.0, 2.0])
    assert np.isinf(scores.std_errors).all()
    assert not scores.decided.any()


def test_a_table_of_all_images_holds_the_values_of_leave_one_out() -> None:
    game = SoftGame(40, n_images=24, uneven=True)
    repair = estimate(
        game,
        RepairRegression(rows=4_000, entry_cost=0.01),
        budget=Budget(max_evaluations=4_000),
        seed=0,
    )
    assert repair.statistics["table_images"] == 24
    alone = estimate(game, LeaveOneOut(), budget=Budget(), seed=0).scores.values
    assert isinstance(repair.run, RepairRun)
    np.testing.assert_allclose(repair.run.alone, alone, rtol=1e-4, atol=1e-6)
    without = RepairRegression(rows=4_000).start(game.facts, np.random.default_rng(0))
    assert isinstance(without, RepairRun)
    assert without.alone is None
