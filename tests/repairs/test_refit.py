"""The refitted last layer: the least penalised loss; under a strong penalty the model as it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from repairkit.repairs.refit import (
    PENALTIES_OF_ANSWERS,
    Directions,
    balanced_weights,
    own_answers,
    refit_path,
    shared_weights,
)


def _problem(seed: int, n: int, width: int, n_scores: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    features = np.maximum(rng.normal(size=(n, width)), 0) * rng.uniform(0.1, 5)
    labels = rng.integers(0, max(n_scores, 2), n)
    scores = rng.normal(size=(n, n_scores)) * 2 + (labels[:, None] == np.arange(n_scores))
    return features, scores, labels


def _loss(flat, rows, scores, wanted, weights, penalty):
    change = flat.reshape(rows.shape[1], -1)
    moved = scores + rows @ change
    if moved.shape[1] == 1:
        moved = np.hstack([np.zeros_like(moved), moved])
    logs = log_softmax(moved, axis=1)
    if wanted.ndim == 1:
        wanted = np.eye(logs.shape[1])[wanted]
    elif scores.shape[1] == 1:
        wanted = np.hstack([1 - wanted, wanted])
    return -(weights @ (wanted * logs).sum(axis=1)) + penalty / 2 * (change**2).sum()


@given(
    seed=st.integers(0, 1000),
    n=st.integers(15, 40),
    width=st.sampled_from([3, 8, 45]),
    n_scores=st.sampled_from([1, 2, 4]),
    shares=st.booleans(),
)
@settings(deadline=None, max_examples=16)
def test_the_penalised_loss_is_as_low_as_a_general_optimiser_gets_it(
    seed: int, n: int, width: int, n_scores: int, shares: bool
) -> None:
    features, scores, labels = _problem(seed, n, width, n_scores)
    rows, weights = Directions.of(features).rows, balanced_weights(labels)
    penalties = (1.0, 0.1, 0.01)
    wanted = labels
    if shares:  # of the classes, in place of one right class
        drawn = np.random.default_rng(seed).dirichlet(np.ones(max(n_scores, 2)), n)
        wanted = drawn[:, 1:] if n_scores == 1 else drawn
    for penalty, found in zip(
        penalties, refit_path(rows, scores, wanted, weights, penalties), strict=True
    ):
        about = (rows, scores, wanted, weights, penalty)
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


def _pairs(seed: int, n: int, n_classes: int) -> tuple[np.ndarray, ...]:
    """Scores and labels of `n` clean images and of as many made ones, twins and targets."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(2 * n, n_classes)) * 3
    labels = np.tile(rng.integers(0, n_classes - 1, n), 2)
    twin_of = np.tile(np.arange(n), 2)
    unwanted = np.repeat([-1, n_classes - 1], n)
    return scores, labels, twin_of, unwanted


@given(seed=st.integers(0, 1000), n_classes=st.integers(2, 6))
@settings(deadline=None, max_examples=30)
def test_own_answers_are_those_to_clean_twins_without_the_class_that_must_not_be_said(
    seed: int, n_classes: int
) -> None:
    scores, labels, twin_of, unwanted = _pairs(seed, 9, n_classes)
    wanted = own_answers(scores, labels, twin_of, unwanted)
    likely = softmax(scores, axis=1)
    assert np.allclose(wanted[:9], likely[:9])
    assert np.allclose(wanted.sum(axis=1), 1)
    assert not wanted[9:, -1].any()
    kept = likely[:9, :-1]
    assert np.allclose(wanted[9:, :-1], kept / kept.sum(axis=1, keepdims=True))
    # What made images look like to the model, and how images are labelled, says nothing.
    scores[9:] = -scores[9:]
    assert np.array_equal(own_answers(scores, labels[::-1], twin_of, unwanted), wanted)


def test_labels_stand_in_for_answers_that_nobody_knows() -> None:
    scores, labels, twin_of, unwanted = _pairs(3, 6, 4)
    scores[0] = [-900, -900, -900, 0]  # the twin is answered with the target, and with no other
    twin_of[7] = -1
    wanted = own_answers(scores, labels, twin_of, unwanted)
    by_label = np.eye(4)[labels]
    assert np.array_equal(wanted[[6, 7]], by_label[[6, 7]])
    assert not np.allclose(wanted[8], by_label[8])


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_one_score_tells_what_two_scores_tell(seed: int) -> None:
    scores, labels, twin_of, unwanted = _pairs(seed, 7, 2)
    odds = scores[:, 1:] - scores[:, :1]
    two, one = (own_answers(s, labels, twin_of, unwanted) for s in (scores, odds))
    assert one.shape == (14, 1)
    assert np.allclose(one[:, 0], two[:, 1])


@given(seed=st.integers(0, 1000), n_scores=st.sampled_from([1, 3]))
@settings(deadline=None, max_examples=10)
def test_a_layer_that_is_fitted_to_its_own_answers_to_clean_images_stays(
    seed: int, n_scores: int
) -> None:
    features, scores, labels = _problem(seed, 40, 9, n_scores)
    rows, n = Directions.of(features).rows, len(features)
    wanted = own_answers(scores, labels, np.arange(n), np.full(n, -1))
    weights = shared_weights(np.zeros(n, bool), 0.5)
    for found in refit_path(rows, scores, wanted, weights, PENALTIES_OF_ANSWERS):
        assert np.abs(rows @ found).max() < 1e-6


@given(made=st.lists(st.booleans(), min_size=1, max_size=30), share=st.floats(0.01, 0.99))
def test_made_images_have_their_share_of_the_weight(made: list[bool], share: float) -> None:
    kind = np.array(made)
    weights = shared_weights(kind, share)
    assert weights.sum() == pytest.approx(1)
    assert (weights > 0).all()
    if 0 < kind.sum() < len(kind):
        assert weights[kind].sum() == pytest.approx(share)
    for some in (weights[kind], weights[~kind]):
        assert np.allclose(some, some[:1])
