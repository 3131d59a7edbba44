"""The refitted last layer: the least penalised loss; under a strong penalty the model as it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax

from repairkit.repairs.refit import Directions, balanced_weights, refit_path


def _problem(seed: int, n: int, width: int, n_scores: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    features = np.maximum(rng.normal(size=(n, width)), 0) * rng.uniform(0.1, 5)
    labels = rng.integers(0, max(n_scores, 2), n)
    scores = rng.normal(size=(n, n_scores)) * 2 + (labels[:, None] == np.arange(n_scores))
    return features, scores, labels


def _loss(flat, rows, scores, labels, weights, penalty):
    change = flat.reshape(rows.shape[1], -1)
    moved = scores + rows @ change
    if moved.shape[1] == 1:
        moved = np.hstack([np.zeros_like(moved), moved])
    logs = log_softmax(moved, axis=1)
    return -(weights @ logs[np.arange(len(logs)), labels]) + penalty / 2 * (change**2).sum()


@given(
    seed=st.integers(0, 1000),
    n=st.integers(15, 40),
    width=st.sampled_from([3, 8, 45]),
    n_scores=st.sampled_from([1, 2, 4]),
)
@settings(deadline=None, max_examples=12)
def test_the_penalised_loss_is_as_low_as_a_general_optimiser_gets_it(
    seed: int, n: int, width: int, n_scores: int
) -> None:
    features, scores, labels = _problem(seed, n, width, n_scores)
    rows, weights = Directions.of(features).rows, balanced_weights(labels)
    penalties = (1.0, 0.1, 0.01)
    for penalty, found in zip(
        penalties, refit_path(rows, scores, labels, weights, penalties), strict=True
    ):
        about = (rows, scores, labels, weights, penalty)
        reached = _loss(found.ravel(), *about)
        assert reached <= _loss(np.zeros(found.size), *about) + 1e-12
        best = minimize(_loss, found.ravel(), about, "L-BFGS-B", options={"maxiter": 10})
        assert reached <= best.fun + 1e-5


@given(seed=st.integers(0, 1000), bias=st.booleans())
@settings(deadline=None, max_examples=10)
def test_changes_of_weights_add_to_the_scores_what_the_coefficients_say(
    seed: int, bias: bool
) -> None:
    features, scores, labels = _problem(seed, 40, 9, 3)
    directions = Directions.of(features, bias=bias)
    *_, found = refit_path(directions.rows, scores, labels, balanced_weights(labels))
    weight, shift = directions.change(found)
    assert np.allclose(features @ weight.T + shift, directions.rows @ found, atol=1e-8)
    assert bias or not shift.any()


def test_a_strong_penalty_leaves_the_model_as_it_is() -> None:
    features, scores, labels = _problem(3, 50, 8, 3)
    rows = Directions.of(features).rows
    (strong,) = refit_path(rows, scores, labels, balanced_weights(labels), (1e9,))
    assert np.abs(rows @ strong).max() < 1e-6


def test_scaled_features_give_the_same_scores() -> None:
    features, scores, labels = _problem(4, 50, 8, 3)
    moved = []
    for factor in (1.0, 1000.0):
        rows = Directions.of(factor * features).rows
        *_, found = refit_path(rows, scores, labels, balanced_weights(labels))
        moved.append(rows @ found)
    assert np.allclose(*moved, atol=1e-6)


def test_every_group_has_the_same_total_weight() -> None:
    groups = np.array([0, 0, 0, 2, 2, 5])
    weights = balanced_weights(groups)
    assert weights.sum() == pytest.approx(1)
    totals = [weights[groups == g].sum() for g in (0, 2, 5)]
    assert np.allclose(totals, 1 / 3)


def test_features_that_never_vary_are_left_alone() -> None:
    features = np.hstack([np.full((30, 2), 7.0), np.zeros((30, 1))])
    directions = Directions.of(features)
    assert directions.rows.shape == (30, 1)
    weight, _ = directions.change(np.ones((1, 3)))
    assert not weight.any()
