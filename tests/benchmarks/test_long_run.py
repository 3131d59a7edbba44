from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.long_run import Truth, absent, cached, long_run, one_by_one
from repairkit.core.scores import Budget
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.exact import Exact
from tests.games import TableGame

_N, _IMAGES = 6, 5


def game_of_bits(seed: int) -> TableGame:
    """Every coalition answers each image rightly or wrongly, the larger the rightlier."""
    rng = np.random.default_rng(seed)
    sizes = (np.arange(2**_N)[:, None] >> np.arange(_N) & 1).sum(axis=1)
    right = rng.random((2**_N, _IMAGES)) < (sizes / _N)[:, None] ** 2
    return TableGame(right[:, :, None].astype(float))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_long_run_agrees_with_exact_values_within_the_errors_it_states(seed: int) -> None:
    game = game_of_bits(seed)
    exact = estimate(game, Exact(), budget=Budget(), seed=0).scores.values[:, 0]
    ends = float(game.values[-1, 0]), float(game.values[0, 0])
    found = long_run(one_by_one(game), ends, (_N, _IMAGES), n_rows=60_000, seed=seed)
    assert (found.errors < 0.01).all()
    assert (np.abs(found.values - exact) < 4.5 * found.errors).all()
    assert found.image_passes == pytest.approx(60_000, rel=0.4)


def test_a_truth_is_the_mean_of_its_halves_and_more_certain_than_either() -> None:
    game = game_of_bits(4)
    ends = float(game.values[-1, 0]), float(game.values[0, 0])
    parts = [
        long_run(one_by_one(game), ends, (_N, _IMAGES), n_rows=20_000, seed=seed) for seed in (0, 1)
    ]
    whole = Truth.of(*parts)
    np.testing.assert_allclose(whole.values, (parts[0].values + parts[1].values) / 2)
    np.testing.assert_allclose(whole.errors, parts[0].errors / np.sqrt(2), rtol=0.1)
    assert whole.reliability > float(np.corrcoef(whole.halves)[0, 1])


def test_stated_errors_are_the_spread_of_many_runs() -> None:
    game = game_of_bits(3)
    ends = float(game.values[-1, 0]), float(game.values[0, 0])
    runs = [
        long_run(one_by_one(game), ends, (_N, _IMAGES), n_rows=8_192, seed=seed)
        for seed in range(24)
    ]
    spread = np.std([run.values for run in runs], axis=0, ddof=1)
    stated = np.mean([run.errors for run in runs], axis=0)
    assert (spread < 1.6 * stated).all()
    assert (spread > 0.55 * stated).all()


def test_sets_are_of_the_size_asked_for_and_leave_no_player_out() -> None:
    sizes = np.repeat([1, 3, 5], 400)
    lacking = absent(np.random.default_rng(0), sizes, _N)
    np.testing.assert_array_equal(lacking.sum(axis=1), sizes)
    np.testing.assert_allclose(lacking.mean(axis=0), 0.5, atol=0.08)


def test_a_truth_is_computed_once(tmp_path: Path) -> None:
    made: list[int] = []

    def compute() -> Truth:
        made.append(1)
        return Truth(np.ones(3), np.full(3, 0.1), np.array([[1.0, 2, 3], [1, 2, 4]]), 77)

    path = tmp_path / "cache" / "game.npz"
    first, second = cached(path, compute), cached(path, compute)
    assert made == [1]
    assert second.image_passes == first.image_passes == 77
    np.testing.assert_array_equal(first.halves, second.halves)
    assert second.reliability == pytest.approx(2 * 0.98198 / 1.98198, abs=1e-4)
