"""Bets against a promise: what they earn by chance, by all outcomes that there can be."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from repairkit.core.errors import SettingsError
from repairkit.metrics import betting
from repairkit.metrics.betting import find_fall, log_capital, mean_bounds

FLOORS = st.floats(0.02, 0.98)
LEVEL = 0.05


def streams(least: int = 1, most: int = 160) -> st.SearchStrategy[NDArray[np.float64]]:
    values = st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0.0, 1.0)
    return st.lists(values, min_size=least, max_size=most).map(np.array)


def by_hand(scores: NDArray[np.float64], floor: float) -> list[float]:
    """The capital after each outcome: each start and each bet on its own, by plain products."""
    capitals = []
    for t in range(1, len(scores) + 1):
        total, handed_out = 0.0, 0.0
        for number, start in enumerate(range(0, t + 1, betting.EVERY)):
            weight = (
                0.5
                if number == 0
                else 0.5 / math.log(math.e + number - 1) - 0.5 / math.log(math.e + number)
            )
            handed_out += weight
            for bet in betting.BETS:
                stake = weight / len(betting.BETS)
                for score in scores[start:t]:
                    stake *= 1.0 - bet * (score - floor) / (1.0 - floor)
                total += stake
        capitals.append(total + 1.0 - handed_out)
    return capitals


@given(streams(most=120), FLOORS)
def test_the_capital_is_the_sum_over_starts_and_bets(
    scores: NDArray[np.float64], floor: float
) -> None:
    np.testing.assert_allclose(np.exp(log_capital(scores, floor)), by_hand(scores, floor), 1e-9)


@pytest.mark.parametrize("floor", [0.05, 0.5, 0.9])
def test_by_all_streams_that_there_are_no_capital_is_made_while_the_promise_holds(
    floor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every stream of 11 outcomes with its probability: bets begin anew three times on the way."""
    monkeypatch.setattr(betting, "EVERY", 3)
    every = np.array(list(product([0.0, 1.0], repeat=11)))
    logs = np.array([log_capital(stream, floor) for stream in every])
    for rate in (floor, floor + 0.02, (1 + floor) / 2):
        odds = np.prod(np.where(every > 0, rate, 1 - rate), axis=1)
        means = odds @ np.exp(logs)
        if rate == floor:
            np.testing.assert_allclose(means, 1.0, rtol=1e-9)
        assert (means <= 1 + 1e-9).all()
        for level in (0.5, 0.2, 0.05, 0.01):
            ever = (logs >= -math.log(level)).any(axis=1)
            assert odds @ ever <= level + 1e-12


@settings(max_examples=30)
@given(st.data(), FLOORS)
def test_no_capital_is_made_of_outcomes_of_three_kinds_and_of_rates_that_move(
    data: st.DataObject, floor: float
) -> None:
    """The odds of lost, as before and gained may depend on all outcomes before, above the floor."""
    every = list(product([0.0, 0.5, 1.0], repeat=4))
    odds = {(): 1.0}
    for length in range(4):
        for stream in product([0.0, 0.5, 1.0], repeat=length):
            mean = data.draw(st.floats(floor, 1.0))
            half = data.draw(st.floats(0.0, 2 * min(mean, 1 - mean)))
            each = {0.5: half, 1.0: mean - half / 2, 0.0: 1 - half - (mean - half / 2)}
            for score, odd in each.items():
                odds[*stream, score] = odds[stream] * odd
    capital = sum(
        odds[stream] * math.exp(log_capital(np.array(stream), floor)[-1]) for stream in every
    )
    assert capital <= 1 + 1e-9


@given(streams(), FLOORS, st.integers(0, 160))
def test_what_comes_later_changes_nothing_of_what_was_said(
    scores: NDArray[np.float64], floor: float, n: int
) -> None:
    whole = log_capital(scores, floor)
    assert whole[:n].tolist() == log_capital(scores[:n], floor).tolist()
    first, last = find_fall(scores[:n], floor, LEVEL), find_fall(scores, floor, LEVEL)
    assert first is None or first == last


@given(streams(), FLOORS, FLOORS)
def test_a_higher_floor_is_broken_sooner(
    scores: NDArray[np.float64], one: float, other: float
) -> None:
    low, high = sorted((one, other))
    assert (log_capital(scores, low) <= log_capital(scores, high) + 1e-9).all()


@settings(max_examples=30)
@given(streams(), st.floats(0.001, 0.2))
def test_bounds_hold_the_mean_whatever_the_order_and_stand_where_the_first_bets_break(
    scores: NDArray[np.float64], level: float
) -> None:
    low, high = mean_bounds(scores, level)
    assert low <= scores.mean() + 1e-9
    assert scores.mean() <= high + 1e-9
    shuffled = np.random.default_rng(0).permutation(scores)
    np.testing.assert_allclose(mean_bounds(shuffled, level), (low, high), atol=1e-9)
    wider = mean_bounds(scores, level / 2)
    assert wider[0] <= low + 1e-9
    assert high <= wider[1] + 1e-9
    mirrored = mean_bounds(1 - scores, level)
    np.testing.assert_allclose(mirrored, (1 - high, 1 - low), atol=1e-7)
    # A floor above the bound is found broken by all that was bet together, too.
    for floor in (high + 1e-6, (1 + high) / 2):
        if floor < 1:
            assert find_fall(scores, floor, level) is not None


@given(streams(), st.sampled_from([0.2, 0.05, 0.01]))
def test_the_upper_bound_is_found_by_trying_floors_one_by_one(
    scores: NDArray[np.float64], level: float
) -> None:
    """By plain products of the bets that are made from the first outcome on."""
    high = mean_bounds(scores, level)[1]
    for floor in np.linspace(0.01, 0.99, 25):
        share = (scores - floor) / (1 - floor)
        capital = 0.5 * np.mean([np.prod(1 - bet * share) for bet in betting.BETS])
        assert (capital >= 1 / level) == (floor >= high) or abs(floor - high) < 1e-9


def test_without_an_outcome_nothing_is_known() -> None:
    nothing = np.zeros(0)
    assert mean_bounds(nothing, LEVEL) == (0.0, 1.0)
    assert log_capital(nothing, 0.5).tolist() == []
    assert find_fall(nothing, 0.5, LEVEL) is None


@pytest.mark.parametrize("floor", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_a_floor_that_cannot_be_watched_is_refused(floor: float) -> None:
    with pytest.raises(SettingsError, match="cannot be watched"):
        log_capital(np.ones(3), floor)


@pytest.mark.parametrize("rate", [0.5, 0.9, 0.99])
def test_alarms_while_the_rate_is_just_the_floor_are_rare(rate: float) -> None:
    """Each of 5,000 outcomes is a look. In truth some 2 % of the streams raise an alarm."""
    rng = np.random.default_rng(3)
    alarms = [
        find_fall((rng.random(5000) < rate).astype(float), rate, LEVEL) is not None
        for _ in range(150)
    ]
    assert np.mean(alarms) <= 0.05


@pytest.mark.parametrize(
    ("before", "most"), [(0, 1000), (4000, 1800)], ids=["at once", "after 4,000 good images"]
)
def test_a_fall_by_five_points_is_found_and_dated(before: int, most: int) -> None:
    rng = np.random.default_rng(7)
    late, off = [], []
    for _ in range(60):
        rates = np.repeat([0.92, 0.85], [before, 4000])
        fall = find_fall((rng.random(len(rates)) < rates).astype(float), 0.9, LEVEL)
        assert fall is not None
        late.append(fall.end - before)
        off.append(abs(fall.begin - before))
    assert np.quantile(late, 0.95) <= most
    assert np.median(off) <= 200
