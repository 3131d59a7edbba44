"""Guesses are told from answers by exact tests."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repairkit.metrics.chance import Guessing, better_by_chance, least_share, look_for_guessing

stats = pytest.importorskip("scipy.stats")


def look(predictions: np.ndarray, labels: np.ndarray, n_classes: int) -> Guessing:
    return look_for_guessing(predictions, labels, n_classes, np.random.default_rng(0))


def answers(
    n: int, n_classes: int, accuracy: float, seed: int, labels: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Answers that are right so often, and labels."""
    rng = np.random.default_rng(seed)
    if labels is None:
        labels = rng.integers(0, n_classes, n)
    knows = rng.random(n) < (accuracy - 1 / n_classes) / (1 - 1 / n_classes)
    return np.where(knows, labels, rng.integers(0, n_classes, n)), labels


def stops(n: int, n_classes: int, accuracy: float, draws: int = 40) -> float:
    found = [look(*answers(n, n_classes, accuracy, seed), n_classes) for seed in range(draws)]
    return float(np.mean([one.at_chance or one.one_takes_all for one in found]))


@given(gained=st.integers(0, 60), lost=st.integers(0, 60), same=st.integers(0, 5))
def test_the_paired_test_is_the_exact_one(gained: int, lost: int, same: int) -> None:
    before = np.repeat([False, True, True], [gained, lost, same])
    after = np.repeat([True, False, True], [gained, lost, same])
    n = gained + lost
    wanted = stats.binomtest(gained, n, alternative="greater").pvalue if n else 1.0
    assert better_by_chance(before, after) == pytest.approx(wanted, rel=1e-9)


@given(trials=st.integers(1, 60), data=st.data())
def test_the_least_share_is_where_so_many_successes_become_unlikely(
    trials: int, data: st.DataObject
) -> None:
    successes = data.draw(st.integers(0, trials))
    share = least_share(successes, trials, 0.95)
    if successes == 0:
        assert share == 0
        return

    def so_many(p: float) -> float:
        terms = range(successes, trials + 1)
        return sum(math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in terms)

    assert so_many(share) == pytest.approx(0.05, abs=1e-9)
    assert least_share(trials, trials, 0.95) == pytest.approx(0.05 ** (1 / trials))


def test_no_trials_bound_nothing() -> None:
    assert least_share(0, 0, 0.95) == 0


def test_the_value_by_chance_and_its_test_are_those_of_permutations() -> None:
    predictions, labels = answers(40, 2, 0.65, 3)
    found = look(predictions, labels, 2)
    table = np.array([[((predictions == i) & (labels == j)).sum() for j in (0, 1)] for i in (0, 1)])
    exact = stats.fisher_exact(table, alternative="greater").pvalue
    assert found.p_value == pytest.approx(exact, abs=0.02)
    shares = [(predictions == k).mean() * (labels == k).mean() for k in (0, 1)]
    assert found.by_chance == pytest.approx(sum(shares))


@pytest.mark.parametrize(("n_classes", "n"), [(2, 400), (10, 60), (10, 400), (1000, 60)])
def test_guesses_are_found_out(n_classes: int, n: int) -> None:
    assert stops(n, n_classes, 1 / n_classes) >= 0.85


@pytest.mark.parametrize(
    ("n_classes", "accuracy", "n"),
    [(2, 0.65, 64), (2, 0.62, 400), (10, 0.3, 64), (10, 0.2, 400), (1000, 0.1, 64)],
)
def test_a_model_that_is_bad_for_honest_reasons_is_not_called_a_guesser(
    n_classes: int, accuracy: float, n: int
) -> None:
    assert stops(n, n_classes, accuracy) <= 0.05


@pytest.mark.parametrize("n_classes", [2, 10])
def test_a_handful_of_images_proves_nothing(n_classes: int) -> None:
    for n in (1, 6, 19):
        labels = np.arange(n) % n_classes
        for answered in (np.zeros(n, np.int64), (labels + 1) % n_classes):
            found = look(answered, labels, n_classes)
            assert not found.one_takes_all
            assert not found.at_chance


def test_one_class_that_takes_all_answers_is_found_where_labels_are_not_so() -> None:
    even, mostly = np.arange(60) % 2, (np.arange(60) % 20 == 0).astype(np.int64)
    always = np.zeros(60, np.int64)
    assert look(always, even, 2).one_takes_all
    assert not look(always, mostly, 2).one_takes_all


def test_a_biased_model_that_knows_something_goes_on() -> None:
    """Right on all of one class and on a third of the other: what a shift of the bias repairs."""
    labels = np.repeat([0, 1], [140, 60])
    predictions = np.where((labels == 1) & (np.arange(200) % 3 == 0), 1, 0)
    found = look(predictions, labels, 2)
    assert not found.one_takes_all
    assert not found.at_chance


def test_data_of_one_class_is_judged_by_the_number_of_classes() -> None:
    labels = np.zeros(60, np.int64)
    assert look(np.arange(60) % 10, labels, 10).at_chance
    right = look(labels, labels, 10)
    assert not right.at_chance
    assert not right.one_takes_all


def test_answers_that_are_no_numbers_are_wrong() -> None:
    found = look(np.full(40, -1), np.arange(40) % 2, 2)
    assert found.at_chance
    assert found.commonest == -1
