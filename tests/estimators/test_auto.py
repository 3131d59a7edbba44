import numpy as np
import pytest

from repairkit.core.errors import SettingsError
from repairkit.core.scores import Budget
from repairkit.estimators.auto import Auto
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.samples import LEFT_OUT, Moments, combine, pooled_variances
from tests.games import SoftGame, TableGame, WatchedGame, additive, noisy, quiet

QUICK = Auto(top_k=3, round_rows=256, batch_size=8)


def is_star(images: np.ndarray | None) -> bool:
    return images is not None and len(images) > 1 and bool((images[0] == images[1]).all())


def stars(settings: Auto, budget: int) -> tuple[int, int]:
    """Rows of stars, and all rows."""
    game = WatchedGame(SoftGame(60, seed=4))
    estimate(game, settings, budget=Budget(budget), seed=0)
    rows = [len(asked) for asked in game.rounds if is_star(asked.images)]
    return sum(rows), game.evaluations


def test_contenders_get_stars_where_these_are_cheap() -> None:
    cheap = Auto(top_k=3, round_rows=256, batch_size=8, marginal_cost=0.01, epsilon=0.0)
    dear = Auto(top_k=3, round_rows=256, batch_size=8, marginal_cost=50.0, epsilon=0.0)
    assert stars(cheap, 12_000)[0] > 4_000
    assert stars(dear, 12_000)[0] < 1_000


def test_a_plain_question_is_answered_and_the_run_ends() -> None:
    scores = noisy(additive([0.9, 0.3, 0.2, 0.1, -0.6]), noise=0.1)
    settings = Auto(top_k=1, epsilon=0.05, round_rows=64)
    end = estimate(TableGame(scores), settings, budget=Budget(50_000), seed=0)
    assert end.finished
    assert end.scores.decided.all()
    assert end.reason == "the top 1 and the lowest 1 are decided"
    assert (end.scores.ranking()[0], end.scores.ranking()[-1]) == (0, 4)


def test_what_was_spent_on_each_part_is_told() -> None:
    end = estimate(SoftGame(60, seed=4), QUICK, budget=Budget(8_000), seed=0)
    told = end.statistics
    assert told["rows"] > 2_000
    assert told["plain_passes_regression"] >= 1.3 * told["rows"]
    assert told["plain_passes_marginals"] <= told["plain_passes_regression"] * 1.2


def test_the_only_player_has_all() -> None:
    game = TableGame(quiet(additive([0.5]), 3))
    end = estimate(game, Auto(), budget=Budget(100), seed=0)
    assert end.finished
    assert end.scores.values.tolist() == [[0.5]]


def test_what_is_known_better_counts_for_more() -> None:
    moments = Moments.empty(2, 1)
    rng = np.random.default_rng(0)
    for _ in range(100):
        moments.add(np.array([0]), 1 + 0.1 * rng.standard_normal((1, 1)))
    values, errors, noise = combine(np.zeros((2, 1)), np.full((2, 1), 0.5), moments)
    assert values[0, 0] == pytest.approx(1.0, abs=0.05)
    assert values[1, 0] == 0.0
    assert errors[0, 0] < 0.02
    assert errors[1, 0] == 0.5
    assert noise == pytest.approx(errors)


def test_the_share_left_out_is_an_error_and_no_noise() -> None:
    values, errors, noise = combine(np.ones((2, 1)), np.full((2, 1), 0.5), Moments.empty(2, 1))
    assert values.tolist() == [[1.0], [1.0]]
    assert errors == pytest.approx(np.hypot(0.5, LEFT_OUT))
    assert noise == pytest.approx(0.5)


def test_a_few_zeros_are_no_certainty() -> None:
    moments = Moments.empty(2, 1)
    for sample in (0.0, 1.0, 0.0, -1.0):
        moments.add(np.array([0, 1]), np.array([[0.0], [sample]]))
    variances = pooled_variances(moments)
    assert 0.1 < variances[0, 0] < variances[1, 0]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("epsilon", -1.0), ("marginal_cost", 0.0), ("scattered_cost", -1.0), ("batch_size", 0),
     ("images_per_coalition", 0), ("most_contenders", 0), ("side", "left"), ("top_k", 0)],
)  # fmt: skip
def test_settings_without_sense_are_refused(setting: str, value: object) -> None:
    with pytest.raises(SettingsError, match=setting):
        Auto(**{setting: value})  # type: ignore[arg-type]
