from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repairkit.core.errors import SettingsError
from repairkit.core.scores import Budget
from repairkit.estimators.driving.checkpoint import CheckpointStore
from repairkit.estimators.driving.driver import Estimation, estimate
from repairkit.estimators.exact import Exact
from repairkit.estimators.reference_scores import LeaveOneOut
from repairkit.estimators.walking.stars import Stars
from tests.games import SoftGame, TableGame, WatchedGame, any_values, noisy

ALONE: dict[str, Any] = {"most_removed": 0.0}


class Uneven(TableGame):
    """Ten players, the first of which vary much more than the others, over 240 images."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        super().__init__(noisy(0.2 * any_values(6, seed=seed), noise=0.01, n_images=240))
        codes = np.arange(64)
        for player, spread in ((0, 1.0), (1, 0.5)):
            effects = spread * rng.standard_normal(240)
            self.scores[:, :, 0] += (codes >> player & 1)[:, None] * (effects - effects.mean())


def play(game: Any, settings: Stars, *, seed: int = 0, **options: Any) -> Estimation:
    return estimate(game, settings, budget=options.pop("budget", Budget()), seed=seed, **options)


def test_all_images_for_all_players_give_leave_one_out() -> None:
    for game in (TableGame(noisy(any_values(6, 2), noise=0.3, n_images=203)), SoftGame(8)):
        whole = play(game, Stars(**ALONE, share=1.0))
        known = estimate(game, LeaveOneOut(), budget=Budget(), seed=0).scores
        np.testing.assert_allclose(whole.scores.values, known.values, atol=1e-12)
        np.testing.assert_allclose(whole.scores.std_errors, known.std_errors, rtol=0.12)
        assert whole.finished


@pytest.mark.long
@pytest.mark.parametrize("options", [ALONE, {}], ids=["full", "shapley"])
def test_values_are_unbiased_and_intervals_hold(options: dict[str, Any]) -> None:
    game = Uneven()
    exact = LeaveOneOut() if options else Exact()
    true = estimate(game, exact, budget=Budget(), seed=0).scores.values[:, 0]
    turns = 1 if options else 2
    settings = Stars(**options, share=0.6, turns=turns, batch_size=6, costs=((2, 1.0), (4, 0.05)))
    ends = [play(game, settings, seed=seed) for seed in range(25)]
    values = np.array([end.scores.values[:, 0] for end in ends])
    error = values.std(axis=0, ddof=1) / np.sqrt(len(ends))
    assert (abs(values.mean(axis=0) - true) <= 4 * error + 1e-12).all()
    held = [(end.scores.ci_low[:, 0] <= true) & (true <= end.scores.ci_high[:, 0]) for end in ends]
    assert np.mean(held) >= 0.93


def test_images_drawn_unevenly_bias_nothing() -> None:
    game = SoftGame(6, n_images=80, uneven=True)
    true = estimate(game, LeaveOneOut(), budget=Budget(), seed=0).scores.values[:, 0]
    settings = Stars(**ALONE, share=0.7, batch_size=2)
    values = [play(game, settings, seed=seed).scores.values[:, 0] for seed in range(20)]
    error = np.std(values, axis=0, ddof=1) / np.sqrt(20)
    assert (abs(np.mean(values, axis=0) - true) <= 4 * error).all()


def test_images_go_to_those_that_vary_and_are_cheap() -> None:
    settings = Stars(**ALONE, share=0.6, batch_size=7, costs=((6, 0.5),))
    end = play(Uneven(), settings)
    counts = end.scores.samples
    assert counts[0] > counts[1] > 2 * counts[2:].max()
    cheaper = {"costs": ((1, 0.5), (1, 0.05), (4, 0.5))}
    cheap = play(Uneven(), Stars(**{**vars(settings), **cheaper}))
    assert cheap.scores.samples[1] > counts[1]
    even = play(Uneven(), Stars(**{**vars(settings), "even": True}))
    assert np.ptp(even.scores.samples) <= 1
    told, as_even = end.statistics, even.statistics
    assert told["plain_passes"] == pytest.approx(as_even["plain_passes"], rel=0.1)
    assert told["squared_error_times_passes"] < 0.8 * as_even["squared_error_times_passes"]
    assert told["gain_over_even_images"] > 1.2


def test_cost_is_counted_by_image_and_by_the_coalitions_too() -> None:
    game = WatchedGame(Uneven())
    end = play(game, Stars(**ALONE, share=1.0, batch_size=4, costs=((6, 0.25),)))
    assert end.statistics["plain_passes"] == pytest.approx(240 * (1 + 6 * 0.25))
    assert end.statistics["passes_per_marginal"] == pytest.approx(0.25)
    assert end.spent.image_passes == 240 * 7


@pytest.mark.parametrize("stop_after", [2, 5, 30])
def test_a_killed_run_resumes_to_the_same_answer(stop_after: int, tmp_path: Path) -> None:
    settings, store = Stars(share=0.6, batch_size=4), CheckpointStore(tmp_path / "checkpoint")

    def stop(n_rounds: int) -> None:
        if n_rounds == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(WatchedGame(Uneven(), stop), settings, checkpoint=store)
    resumed = play(Uneven(), settings, checkpoint=store)
    never = play(Uneven(), settings)
    for part in ("values", "std_errors", "ci_low", "ci_high", "samples"):
        one, two = (getattr(end.scores, part) for end in (resumed, never))
        assert one.tobytes() == two.tobytes()
    assert resumed.statistics == never.statistics


def test_a_run_that_ends_early_says_what_it_knows() -> None:
    end = play(Uneven(), Stars(batch_size=4), budget=Budget(60))
    assert not end.finished
    assert np.isfinite(end.scores.std_errors).all()
    assert end.scores.samples.min() >= 4


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"share": 0.0}, "share is 0"),
        ({"share": 2}, "share is 2"),
        ({"least_removed": 0.5, "most_removed": 0.1}, "give the smaller share first"),
        ({"pilot": 1}, "pilot is 1"),
        ({"costs": ((3, 0.0),)}, "costs is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(SettingsError, match=match):
        Stars(**options)


def test_costs_of_another_number_of_players_are_refused() -> None:
    with pytest.raises(SettingsError, match="given for 3 players and the game has 6"):
        play(Uneven(), Stars(costs=((3, 0.5),)))
