import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repairkit.estimators.walking.allocation import gain_over_even, sampling_rates, taken

SPREADS = st.just(0.0) | st.floats(0.01, 5.0)
SOME = st.lists(st.tuples(SPREADS, st.floats(0.01, 1.0)), min_size=1, max_size=30)


@given(SOME, st.floats(0.05, 1.0))
@settings(max_examples=30, deadline=None)
def test_rates_spend_what_they_may_within_their_bounds(
    players: list[tuple[float, float]], share: float
) -> None:
    spreads, costs = np.array(players).T
    least, cost = 0.02, share * costs.sum()
    rates = sampling_rates(spreads, costs, cost=cost, least=least)
    assert ((rates >= least) & (rates <= 1)).all()
    varies = spreads > 0 if spreads.any() else np.ones(len(costs), bool)
    fits = rates @ costs <= cost * (1 + 1e-9)
    assert fits or np.allclose(rates[varies], least)
    assert rates @ costs >= 0.999 * cost or np.allclose(rates[varies], 1.0)


@given(SOME)
@settings(max_examples=20, deadline=None)
def test_no_other_rates_of_that_cost_leave_less_variance(
    players: list[tuple[float, float]],
) -> None:
    spreads, costs = np.array(players).T
    spreads = spreads + 0.01
    rates = sampling_rates(spreads, costs, cost=0.3 * float(costs.sum()), least=1e-6)
    rng = np.random.default_rng(0)
    for _ in range(20):
        other = np.clip(rates * np.exp(0.3 * rng.standard_normal(len(rates))), 1e-6, 1.0)
        other = np.minimum(other * (rates @ costs) / (other @ costs), 1.0)
        assert (spreads**2 / other).sum() >= (spreads**2 / rates).sum() * (1 - 1e-6)


def test_neyman_s_rates_where_nothing_bounds_them() -> None:
    spreads, costs = np.array([1.0, 2.0, 1.0]), np.array([1.0, 1.0, 0.25])
    rates = sampling_rates(spreads, costs, cost=0.7, least=1e-3)
    np.testing.assert_allclose(rates / rates[0], [1, 2, 2], rtol=1e-9)
    assert rates @ costs == pytest.approx(0.7)
    # (sum of sigma^2) (sum of c) / (sum of sigma sqrt(c))^2
    assert gain_over_even(spreads, costs, rates) == pytest.approx(6 * 2.25 / 3.5**2)


def test_where_nothing_varies_cost_alone_counts() -> None:
    rates = sampling_rates(np.zeros(2), np.array([1.0, 0.25]), cost=0.5, least=0.01)
    assert rates[1] == pytest.approx(2 * rates[0])


def test_a_player_takes_part_as_often_as_its_rate_says() -> None:
    rng = np.random.default_rng(0)
    rates, starts = rng.random(50), rng.random(50)
    part = np.array([taken(rates, starts, number) for number in range(400)])
    assert (abs(part.sum(axis=0) - 400 * rates) <= 1).all()
    assert taken(np.ones(3), np.array([0.0, 0.5, 0.999]), 7).all()
