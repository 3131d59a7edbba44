from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repairkit.repairs.controls import fit_biases


@given(seed=st.integers(0, 30))
@settings(deadline=None, max_examples=8)
def test_a_threshold_is_the_best_of_all_that_images_tell_apart(seed):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([[0, 1], rng.random(40) < 0.2]).astype(int)
    odds = rng.normal(size=42) + labels - 1.0
    ordered = np.unique(odds)
    shifts = [-float(t) for t in (ordered[1:] + ordered[:-1]) / 2]

    def judge(biases):
        said = odds + biases[1] >= 0
        return (said[labels == 1].mean() + (~said[labels == 0]).mean()) / 2, None

    found = fit_biases(judge, 2, classes=[1], shifts=shifts, max_drop=0.0)
    exhaustive = max(judge(np.array([0.0, s]))[0] for s in [0.0, *shifts])
    assert judge(found)[0] == pytest.approx(exhaustive)
    assert found[0] == 0


def test_of_equals_the_smallest_shift_wins_and_nothing_is_one_of_them():
    flat = fit_biases(lambda _: (1.0, 1.0), 3, classes=[0, 1, 2], shifts=[-1, 2], max_drop=1.0)
    assert not flat.any()

    def judge(biases):
        return float(biases[1] >= 1), None

    assert fit_biases(judge, 2, classes=[1], shifts=[3, 1, 2], max_drop=0)[1] == 1


def test_accuracy_that_may_not_be_lost_is_not():
    def judge(biases):
        return float(biases[0]), 0.9 - 0.1 * float(biases[0])

    shifts = [0.5, 1.0, 2.0]
    assert fit_biases(judge, 2, classes=[0], shifts=shifts, max_drop=0.1)[0] == 1.0
    assert fit_biases(judge, 2, classes=[0], shifts=shifts, max_drop=0.0)[0] == 0.0
    assert fit_biases(judge, 2, classes=[0], shifts=shifts, max_drop=1.0)[0] == 2.0
