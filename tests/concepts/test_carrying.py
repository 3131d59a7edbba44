"""Tests by permutation within layers: exact on small cases, uniform where there is no link."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, spearmanr

from repairkit.concepts import carrying
from repairkit.concepts.carrying import difference_within, rank_correlation_within


@given(st.integers(0, 10_000), st.integers(3, 30))
@settings(max_examples=15, deadline=None)
def test_within_one_layer_it_is_spearmans_correlation(seed: int, n: int) -> None:
    some, others = np.random.default_rng(seed).standard_normal((2, n)).round(1)
    found = rank_correlation_within(some, others, np.zeros(n, np.intp), seed=0)
    if np.ptp(some) and np.ptp(others):
        assert found.value == pytest.approx(spearmanr(some, others).statistic)
        assert found.chance_low <= 0 <= found.chance_high


def test_a_difference_weighs_layers_as_mantel_and_haenszel_do() -> None:
    layers = np.array([0, 0, 0, 1, 1, 1, 1, 2])
    members = np.array([1, 0, 0, 1, 1, 0, 0, 1], bool)
    measure = np.array([1, 0, 1, 1, 1, 0, 1, 0], float)
    found, mean, others = difference_within(members, measure, layers, seed=0)
    weights = np.array([1 * 2 / 3, 2 * 2 / 4])
    assert mean == pytest.approx(1.0)
    assert others == pytest.approx((weights * [0.5, 0.5]).sum() / weights.sum())
    assert found.value == pytest.approx(mean - others)


def test_p_values_are_those_of_all_permutations() -> None:
    measure = np.array([0.1, 0.2, 0.35, 0.8, 0.9, 1.7])
    members = np.array([0, 0, 0, 1, 0, 1], bool)
    found, _, _ = difference_within(members, measure, np.zeros(6, np.intp), seed=3)
    every = [np.array(p) for p in permutations(measure)]
    means = np.array([p[members].mean() - p[~members].mean() for p in every])
    upper = (means >= found.value - 1e-9).mean()
    assert found.p == pytest.approx(2 * upper, abs=4 * np.sqrt(upper / carrying.N_DRAWS) + 1e-3)


def test_without_a_link_p_values_are_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrying, "N_DRAWS", 199)
    rng = np.random.default_rng(0)
    layers = np.repeat([0, 1, 2], [12, 20, 30])
    level = np.array([0.0, 5.0, -3.0])[layers]  # layers differ in both, which is no link
    ranks, shares = [], []
    for seed in range(150):
        value, score = level + rng.standard_normal((2, 62))
        ranks.append(rank_correlation_within(value, score, layers, seed=seed).p)
        members = value > np.quantile(value, 0.8)
        shares.append(difference_within(members, score, layers, seed=seed)[0].p)
    assert kstest(ranks, "uniform").pvalue > 0.001
    assert kstest(shares, "uniform").pvalue > 0.001


def test_a_link_within_layers_is_found_though_layers_hide_it() -> None:
    rng = np.random.default_rng(1)
    layers = np.repeat([0, 1, 2, 3], 20)
    value = rng.standard_normal(80) + 4 * layers
    score = value - 4 * layers - 8 * layers + 0.5 * rng.standard_normal(80)
    found = rank_correlation_within(value, score, layers, seed=0)
    assert found.value > 0.7
    assert found.p < 0.001
    assert np.corrcoef(value, score)[0, 1] < 0  # over all layers it looks the other way round


def test_what_is_not_defined_is_said_to_be_so() -> None:
    flat = np.zeros(4)
    assert np.isnan(rank_correlation_within(flat, flat, np.zeros(4, np.intp), seed=0).value)
    apart = np.array([1, 1, 0, 0], bool)
    found, _, _ = difference_within(apart, flat, np.array([0, 0, 1, 1]), seed=0)
    assert np.isnan(found.p)
