"""Slices of errors on made-up features, where the truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import fisher_exact

from repairkit.repairs.slices import FEWEST_IMAGES, LEVEL, Mixture, Slices, find_slices


def images(n: int, seed: int, wrong: tuple[float, float]) -> tuple[Any, Any, Any, Any]:
    """Features in two clouds of a third and two thirds, and errors at a rate for each cloud."""
    rng = np.random.default_rng(seed)
    hidden = np.arange(n) % 3 == 0
    features = rng.standard_normal((n, 12)) @ np.diag(np.linspace(2, 0.2, 12))
    features[hidden, 3:6] += 4
    right = rng.random(n) >= np.where(hidden, *wrong)
    losses = np.where(right, rng.exponential(0.2, n), 0.7 + rng.exponential(1.5, n))
    return features, losses, right, hidden


def found_in(n: int, seed: int, wrong: tuple[float, float]) -> tuple[Slices | None, Any]:
    features, losses, right, hidden = images(n, seed, wrong)
    return find_slices(features, losses, right, np.arange(n) % 5, seed), hidden


def test_a_cloud_of_errors_is_the_worst_slice() -> None:
    found, hidden = found_in(400, 1, (0.5, 0.03))
    assert found is not None
    assert ((found.slice_of == 0) == hidden).mean() > 0.97
    assert found.p_worst < 1e-6
    fresh, _, _, truth = images(400, 2, (0.5, 0.03))
    inside = found.mixture.members(fresh).argmax(axis=1) == 0
    assert (inside == truth).mean() > 0.97


def test_errors_that_features_do_not_foretell_make_no_slice() -> None:
    """An image that is assigned by its own error would make a sure slice each time."""
    found = [found_in(150, seed, (0.2, 0.2))[0] for seed in range(8)]
    sure = [each is not None and each.p_worst <= LEVEL for each in found]
    assert sum(sure) <= 1


def test_slices_are_ordered_and_none_is_small() -> None:
    for seed in (3, 4):
        found, _ = found_in(150, seed, (0.6, 0.1))
        assert found is not None
        n_images, n_right = found.counts
        rates = n_right / n_images
        assert n_images.min() >= FEWEST_IMAGES
        assert n_images.sum() == 150
        assert list(rates) == sorted(rates)
        np.testing.assert_allclose(found.members.sum(axis=1), 1)


def test_a_seed_gives_one_answer_and_few_images_give_none() -> None:
    first, _ = found_in(160, 5, (0.5, 0.05))
    again, _ = found_in(160, 5, (0.5, 0.05))
    assert first is not None
    assert again is not None
    np.testing.assert_array_equal(first.members, again.members)
    assert found_in(40, 5, (0.5, 0.05))[0] is None


def test_scale_and_shift_of_features_do_not_matter() -> None:
    features, losses, right, _ = images(200, 6, (0.5, 0.05))
    folds = np.arange(200) % 5
    plain = find_slices(features, losses, right, folds, 0)
    moved = find_slices(1000 * features + 70, losses, right, folds, 0)
    assert plain is not None
    assert moved is not None
    np.testing.assert_array_equal(plain.slice_of, moved.slice_of)


def test_features_that_never_vary_and_losses_without_spread_are_taken() -> None:
    losses = np.linspace(0, 1, 120)
    found = find_slices(np.ones((120, 4)), losses, losses < 0.5, np.arange(120) % 5, 0)
    assert found is None or found.p_worst > LEVEL
    mixture = Mixture.of(np.ones((120, 4)), np.zeros(120), 2, 0)
    assert np.isfinite(mixture.members(np.ones((3, 4)))).all()


@given(st.integers(1, 30), st.integers(1, 30), st.data())
@settings(max_examples=60, deadline=None)
def test_the_test_of_the_worst_slice_is_fishers(n_worst: int, n_rest: int, data: Any) -> None:
    wrong = data.draw(st.integers(0, n_worst)), data.draw(st.integers(0, n_rest))
    members = np.repeat([[1.0, 0.0], [0.0, 1.0]], [n_worst, n_rest], axis=0)
    right = np.concatenate(
        [np.arange(n) >= w for n, w in zip((n_worst, n_rest), wrong, strict=True)]
    )
    nothing = Mixture(*[np.zeros((2, 2))] * 5)
    found = Slices(nothing, members, right)
    table = [[wrong[0], n_worst - wrong[0]], [wrong[1], n_rest - wrong[1]]]
    expected = fisher_exact(table, alternative="greater").pvalue
    assert found.p_worst == pytest.approx(min(1.0, 2 * expected), rel=1e-6)
