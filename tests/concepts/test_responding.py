"""Areas under curves, against scikit-learn, and intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, rankdata
from sklearn.metrics import roc_auc_score

from repairkit.concepts.responding import area_interval, areas, midranks


@given(st.integers(0, 10_000), st.integers(2, 30), st.booleans())
@settings(max_examples=40, deadline=None)
def test_ranks_and_areas_are_those_of_other_libraries(seed: int, n: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    responses = rng.standard_normal((3, n))
    responses = np.round(responses) if ties else responses
    members = rng.random((2, n)) < 0.5
    np.testing.assert_array_equal(midranks(responses), rankdata(responses, axis=1))
    found = areas(responses, members)
    for unit in range(3):
        for concept in range(2):
            if 0 < members[concept].sum() < n:
                wanted = roc_auc_score(members[concept], responses[unit])
                assert found[unit, concept] == pytest.approx(wanted)
            else:
                assert np.isnan(found[unit, concept])


def test_intervals_of_areas_cover_the_truth() -> None:
    rng = np.random.default_rng(0)
    truth, covered = norm.cdf(1 / np.sqrt(2)), 0
    member = np.arange(80) < 30
    for _ in range(200):
        low, high = area_interval(rng.standard_normal(80) + member, member)
        covered += bool(low <= truth <= high)
    assert 178 <= covered <= 200  # 190 expected; fewer than 178 come once in 4,000


def test_ends_of_intervals_stay_honest_where_all_pairs_agree() -> None:
    member = np.arange(20) < 8
    low, high = area_interval(member.astype(float), member)
    assert (low, high) == (1 - 3 / 8, 1.0)
    assert area_interval(-member.astype(float), member) == (0.0, 3 / 8)
    assert area_interval(np.zeros(5), np.ones(5, bool)) == (0.0, 1.0)
