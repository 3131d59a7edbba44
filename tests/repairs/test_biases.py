"""Class biases that are fitted to a figure, within limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repairkit.repairs.biases import STEPS, best_shift, fit_biases


def _always(_: np.ndarray) -> bool:
    return True


@given(seed=st.integers(0, 30))
@settings(deadline=None, max_examples=8)
def test_a_threshold_is_the_best_of_all_that_images_tell_apart(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([[0, 1], rng.random(40) < 0.2]).astype(int)
    odds = rng.normal(size=42) + labels - 1.0
    ordered = np.unique(odds)
    shifts = [-float(t) for t in (ordered[1:] + ordered[:-1]) / 2]

    def figure(biases: np.ndarray) -> float:
        said = odds + biases[1] >= 0
        return float((said[labels == 1].mean() + (~said[labels == 0]).mean()) / 2)

    found = best_shift(figure, _always, shifts)
    exhaustive = max(figure(np.array([0.0, s])) for s in [0.0, *shifts])
    assert figure(found) == pytest.approx(exhaustive)
    assert found[0] == 0


def test_of_equals_the_smallest_shift_wins_and_nothing_is_one_of_them() -> None:
    assert not fit_biases(lambda _: 1.0, _always, 3, classes=[0, 1, 2]).any()
    assert not best_shift(lambda _: 1.0, _always, [-1.0, 2.0]).any()
    assert best_shift(lambda b: float(b[1] >= 1), _always, [3.0, 1.0, 2.0])[1] == 1


def test_what_limits_forbid_is_not_taken() -> None:
    def below(most: float) -> np.ndarray:
        return fit_biases(lambda b: float(b[0]), lambda b: b[0] <= most, 3, classes=[0])

    assert below(1.5)[0] == 1.5
    assert below(0.0)[0] == 0.0
    assert best_shift(lambda b: b[1], lambda b: b[1] < 2, [0.5, 1.0, 2.0])[1] == 1.0


@given(seed=st.integers(0, 100), n_classes=st.integers(3, 6))
@settings(deadline=None, max_examples=10)
def test_biases_of_a_smooth_figure_are_found_within_the_finest_step(
    seed: int, n_classes: int
) -> None:
    rng = np.random.default_rng(seed)
    best = rng.uniform(-1.5, 1.5, n_classes)
    found = fit_biases(
        lambda b: -float(((b - best) ** 2).sum()), _always, n_classes, classes=range(n_classes)
    )
    assert np.abs(found - best).max() <= STEPS[-1]


def test_a_start_is_taken_where_it_is_better_than_nothing() -> None:
    best = np.linspace(-2, 2, 5)

    def figure(biases: np.ndarray) -> float:
        return -float(((biases - best) ** 2).sum())

    found = fit_biases(figure, _always, 5, classes=(), start=best)
    assert np.array_equal(found, best)
    assert np.array_equal(fit_biases(figure, _always, 5, classes=(), start=2 * best), best)
    assert not fit_biases(figure, _always, 5, classes=(), start=-best).any()
    assert not fit_biases(figure, lambda b: not b.any(), 5, classes=(), start=best).any()
