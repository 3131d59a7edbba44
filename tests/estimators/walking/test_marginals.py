import numpy as np
import pytest

from repairkit.core.errors import SettingsError
from repairkit.core.scores import Budget
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.exact import Exact
from repairkit.estimators.walking.marginals import Marginals, Sizes, begin_star
from tests.games import TableGame, WatchedGame, additive, any_values, noisy, quiet


@pytest.mark.long
def test_the_statement_is_right_in_at_least_1_less_delta_of_the_runs_that_make_it() -> None:
    scores = noisy(additive([0.5, 0.3, 0.1, 0.0, -0.2]) + 0.1 * any_values(5, seed=1), noise=0.1)
    settings = Marginals(top_k=1, side="both", epsilon=0.05, batch_size=8, value_range=1.0)
    right = []
    for seed in range(6):
        end = estimate(TableGame(scores), settings, budget=Budget(60_000), seed=seed)
        assert end.finished
        assert end.reason == "the top 1 and the lowest 1 are decided"
        ranking = end.scores.ranking()
        right.append((ranking[0], ranking[-1]) == (0, 4))
    assert np.mean(right) >= 1 - settings.delta


def test_a_star_is_a_coalition_and_those_beside_it() -> None:
    game = WatchedGame(TableGame(noisy(any_values(6), noise=0.1)))
    estimate(game, Marginals(batch_size=4), budget=Budget(70), seed=0)
    for asked in game.rounds:
        assert ((asked.coalitions[0] ^ asked.coalitions[1:]) == np.eye(6, dtype=bool)).all()
        assert asked.images is not None
        assert (asked.images == asked.images[0]).all()


def test_chunks_change_no_star() -> None:
    scores = noisy(any_values(6, 2), noise=0.2)
    small, large = (
        estimate(TableGame(scores), Marginals(batch_size=4, chunk=c), budget=Budget(700), seed=0)
        for c in (3, 64)
    )
    assert small.scores.values.tobytes() == large.scores.values.tobytes()


@pytest.mark.long
def test_players_that_are_decided_leave_the_stars() -> None:
    scores = noisy(additive([0.9, 0.5, 0.1, 0.1]), noise=0.05)
    for only, evenly in ((True, False), (False, True)):
        settings = Marginals(top_k=3, epsilon=0.0, contenders_only=only, value_range=0.5)
        samples = estimate(TableGame(scores), settings, budget=Budget(4_000), seed=0).scores.samples
        assert (np.ptp(samples) == 0) == evenly
        assert samples[2:].min() == samples.max()


def test_sizes_are_shared_out_evenly_and_weights_make_up_for_the_rest() -> None:
    n = 40
    even = [Sizes.even(n).at(point) for point in (np.arange(4_100) + 0.5) / 4_100]
    assert (np.bincount(even) == 100).all()
    near = Sizes(n, 9, 0.8)
    drawn = np.array([near.at(point) for point in (np.arange(10_000) + 0.5) / 10_000])
    weighted = np.bincount(drawn, [near.weight(size) for size in drawn]) / 10_000
    np.testing.assert_allclose(weighted, 1 / (n + 1), rtol=0.05)
    assert (drawn <= 9).mean() == pytest.approx(0.8)
    assert near.greatest_weight == near.weight(10) > near.weight(0)


def test_eight_stars_in_a_row_have_sizes_of_every_eighth() -> None:
    facts = TableGame(quiet(any_values(8))).facts
    sizes = [
        (~begin_star(facts, (1, 2), i, players=np.arange(8), sizes=Sizes.even(7),
                     batch_size=1).present).sum()
        for i in range(8)
    ]  # fmt: skip
    assert sorted(sizes) == list(range(8))


@pytest.mark.long
def test_weighted_sizes_bias_nothing() -> None:
    scores = noisy(any_values(6, seed=2), noise=0.1)
    true = estimate(TableGame(scores), Exact(), budget=Budget(), seed=0).scores.values
    settings = Marginals(batch_size=8, reach=0.4, contenders_only=False)
    end = estimate(TableGame(scores), settings, budget=Budget(14_000), seed=3).scores
    assert (abs(end.values - true) <= 4.5 * end.std_errors).all()


@pytest.mark.parametrize(
    ("setting", "value"),
    [("delta", 0.0), ("epsilon", -1.0), ("batch_size", 0), ("reach", 1.0), ("reach", 0.0),
     ("value_range", 0.0), ("chunk", 0), ("side", "left"), ("top_k", 0)],
)  # fmt: skip
def test_settings_without_sense_are_refused(setting: str, value: object) -> None:
    with pytest.raises(SettingsError, match=setting):
        Marginals(**{setting: value})  # type: ignore[arg-type]
