import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repairkit.estimators.samples import Moments, bernstein_radius, log_term, student_quantile


@pytest.mark.parametrize(
    ("degrees", "table"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (200, 1.972),
     (201, 1.972), (1000, 1.962), (10**6, 1.960)],
)  # fmt: skip
def test_students_quantiles_are_those_of_the_tables(degrees: int, table: float) -> None:
    assert student_quantile(0.95, degrees) == pytest.approx(table, abs=6e-4)


def test_the_radius_is_that_of_maurer_and_pontil() -> None:
    radius = bernstein_radius(
        np.array([[0.04]]), np.array([100]), np.array([2.0]), np.array([math.log(3 / 0.1)])
    )
    expected = math.sqrt(2 * 0.04 * math.log(30) / 100) + 7 * 2 * math.log(30) / (3 * 99)
    assert radius[0, 0] == pytest.approx(expected)


def test_below_two_samples_the_radius_is_infinite() -> None:
    counts = np.array([0, 1, 2])
    logs = log_term(counts, n_players=3, delta=0.1, union_bound=True)
    radius = bernstein_radius(np.zeros((3, 1)), counts, np.ones(1), logs)
    assert np.isinf(radius[:, 0]).tolist() == [True, True, False]


def test_the_union_bound_spends_delta_over_all_players_and_looks() -> None:
    looks = np.arange(1, 100_000)
    logs = log_term(looks, n_players=50, delta=0.1, union_bound=True)
    spent = 50 * (3 * np.exp(-logs)).sum()
    assert 0.0999 < spent < 0.1


def test_sparse_samples_are_covered_at_every_look_together() -> None:
    # Mostly zeros, as marginals are; there a normal interval that is peeked at fails.
    rng = np.random.default_rng(5)
    n_players, delta, held, normal_held = 400, 0.1, np.ones(400, bool), np.ones(400, bool)
    moments = Moments.empty(n_players, 1)
    everyone = np.arange(n_players)
    for look in range(1, 400):
        moments.add(everyone, (rng.random((n_players, 1)) < 0.03).astype(float))
        logs = log_term(moments.counts, n_players=1, delta=delta, union_bound=True)
        radius = bernstein_radius(moments.variances(), moments.counts, np.ones(1), logs)
        errors = abs(moments.means - 0.03)[:, 0]
        held &= errors <= radius[:, 0]
        if look > 30:
            normal_held &= errors <= 1.645 * moments.std_errors()[:, 0]
    assert held.mean() >= 1 - delta
    assert normal_held.mean() < 1 - delta


@given(st.lists(st.lists(st.floats(-100, 100), min_size=2, max_size=2), min_size=2, max_size=30))
def test_moving_moments_equal_those_of_all_samples(samples: list[list[float]]) -> None:
    moments = Moments.empty(3, 2)
    for sample in samples:
        moments.add(np.array([1]), np.array([sample]))
    array = np.array(samples)
    np.testing.assert_allclose(moments.means[1], array.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(moments.variances()[1], array.var(axis=0, ddof=1), atol=1e-7)
    assert moments.counts.tolist() == [0, len(samples), 0]
    assert np.isinf(moments.std_errors()[[0, 2]]).all()
