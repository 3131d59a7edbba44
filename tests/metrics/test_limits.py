"""A group that surely loses too much forbids a repair; one that lost by chance does not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from repairkit.core.outputs import OutputForm
from repairkit.core.suite import Annotations
from repairkit.metrics.chance import binomial_tail
from repairkit.metrics.evaluation import difference, falls_beyond

FORM = OutputForm("logits")


def answers(rows: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, Annotations]:
    """Outputs before and after, for groups of (images, lost, gained)."""
    kinds = np.array([[1, 0], [0, 1], [1, 1]])
    right = [np.repeat(kinds, [lost, won, n - lost - won], 0) for n, lost, won in rows]
    groups = np.repeat(np.arange(len(rows)), [n for n, *_ in rows])
    both = np.concatenate(right)
    names = tuple(f"g{k}" for k in range(len(rows)))
    outputs = [np.eye(2)[side] for side in both.T]
    return (
        outputs[0],
        outputs[1],
        Annotations(labels=np.ones(len(both), np.int64), groups=groups, group_names=names),
    )


def beyond(rows: list[tuple[int, int, int]], most: float = 0.05) -> list[str]:
    return list(falls_beyond(difference(*answers(rows), (), form=FORM, seed=0), most))


def test_one_image_of_eight_forbids_nothing_and_sixteen_of_two_hundred_do() -> None:
    assert beyond([(8, 1, 0), (200, 0, 9)]) == []
    assert beyond([(200, 16, 0), (200, 0, 9)]) == ["g0"]
    assert beyond([(200, 20, 4)]) == ["g0"]
    assert beyond([(200, 20, 4)], most=0.1) == []
    assert beyond([(1000, 40, 2)]) == []  # surely falls, and by less than 5 points
    assert beyond([(50, 8, 0), (50, 20, 0), (50, 0, 8)]) == ["g1", "g0"]


def test_without_groups_nothing_is_forbidden() -> None:
    before, after, about = answers([(50, 40, 0)])
    alone = Annotations(labels=about.labels)
    assert falls_beyond(difference(before, after, alone, (), form=FORM, seed=0), 0.0) == {}


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 300))
@settings(deadline=None, max_examples=60)
def test_a_change_lies_beside_zero_only_where_an_exact_test_agrees(
    lost: int, gained: int, rest: int
) -> None:
    before, after, about = answers([(lost + gained + rest, lost, gained)])
    changed = max(lost + gained, 1)
    found = difference(before, after, about, (), form=FORM, seed=1)["accuracy:g0"]
    falls = binomtest(lost, changed, alternative="greater").pvalue if lost + gained else 1.0
    if found.ci_high < 0:
        assert falls <= 0.05
    if falls < 0.01:
        assert found.ci_high < 0
    assert found.ci_low <= found.value <= found.ci_high


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_tail_is_scipys(successes: int, others: int) -> None:
    trials = successes + others
    expected = binomtest(successes, trials, alternative="greater").pvalue if trials else 1.0
    assert binomial_tail(successes, trials) == pytest.approx(expected)


@pytest.mark.parametrize(("size", "churn"), [(20, 0.3), (60, 0.1), (60, 0.3)])
def test_groups_that_lose_nothing_in_truth_are_hardly_ever_named(size: int, churn: float) -> None:
    """Of groups whose images are lost and gained as often, 1 in 40 at the most is said to lose."""
    rng = np.random.default_rng(7)
    drawn = rng.multinomial(size, [churn / 2, churn / 2, 1 - churn], size=160)
    named = beyond([(size, int(lost), int(gained)) for lost, gained, _ in drawn], most=0.0)
    assert len(named) / len(drawn) <= 0.025 + 2 * np.sqrt(0.025 * 0.975 / len(drawn))
