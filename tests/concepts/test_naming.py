"""P values from random units, and names whose share of false ones is held."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from repairkit.concepts.naming import adjusted, control_p_values, copies_for, step_up

P_VALUES = st.lists(st.floats(0.0001, 1.0), min_size=1, max_size=30).map(np.array)


@given(P_VALUES, st.floats(0.01, 0.3))
@settings(max_examples=80, deadline=None)
def test_names_are_those_of_benjamini_and_hochberg(p: np.ndarray, level: float) -> None:
    wanted = false_discovery_control(p)
    np.testing.assert_allclose(adjusted(p), wanted)
    clear = np.abs(wanted - level) > 1e-9
    np.testing.assert_array_equal(step_up(p, level)[clear], (wanted <= level)[clear])


def test_units_that_are_as_random_ones_are_seldom_named() -> None:
    rng = np.random.default_rng(0)
    n_trials, alarms, least = 400, 0, []
    for _ in range(n_trials):
        scores, control = rng.gamma(2, size=12), rng.gamma(2, size=240)
        p = control_p_values(scores, control)
        alarms += bool(step_up(p, 0.05).any())
        least.append(p[0])
    assert alarms <= 0.05 * n_trials + 3 * np.sqrt(0.05 * 0.95 * n_trials)
    assert abs(np.mean(least) - 0.5) < 0.06  # uniform on 1/241, 2/241, ... 1


@given(st.integers(1, 200), st.sampled_from([0.02, 0.05, 0.1]))
def test_copies_suffice_for_one_lone_unit_above_all(n_units: int, level: float) -> None:
    copies = copies_for(n_units, level=level, most_units=10**9, most_copies=10**9)
    p = np.ones(n_units)
    p[0] = control_p_values(np.array([2.0]), np.ones(copies * n_units))[0]
    assert step_up(p, level)[0]
    assert copies_for(n_units, level=level, most_units=50, most_copies=3) <= 3
