"""Tests on the same images, against enumeration and against the bootstrap done by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repairkit.core.suite import Annotations
from repairkit.metrics.chance import Discordant, binomial_tail
from repairkit.metrics.resampling import FigureOfImages, paired_change


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_binomial_tail_is_that_of_counting(successes: int, more: int) -> None:
    trials = successes + more
    counted = sum(math.comb(trials, k) for k in range(successes, trials + 1)) / 2**trials
    assert binomial_tail(successes, trials) == pytest.approx(counted)


def test_the_exact_test_is_that_of_all_signs() -> None:
    """Under no change, each image whose answer changed is as likely gained as lost."""
    before = np.array([0, 0, 0, 0, 0, 1, 1, 1, 0], bool)
    after = np.array([1, 1, 1, 1, 0, 0, 1, 1, 1], bool)
    found = Discordant.of(before, after)
    assert (found.gained, found.lost, found.n_images) == (5, 1, 9)
    signs = list(itertools.product([1, -1], repeat=6))
    assert found.p_gain == pytest.approx(np.mean([sum(s) >= 4 for s in signs]))
    assert found.p_loss == pytest.approx(np.mean([sum(s) <= 4 for s in signs]))


@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 500))
def test_the_images_needed_make_the_gain_sure(gained: int, lost: int, unchanged: int) -> None:
    found = Discordant(gained, lost, gained + lost + unchanged)
    needed = found.images_needed(0.05)
    if gained <= lost:
        assert needed is None
    elif found.p_gain <= 0.05:
        assert needed == 0
    elif needed is not None:
        assert needed > 0
        times = (found.n_images + needed + 1) / found.n_images
        more = Discordant(int(times * gained + 1e-9), math.ceil(times * lost - 1e-9), 0)
        assert more.p_gain <= 0.08  # whole images round the rates a little


def test_models_that_answer_alike_gain_nothing_and_are_never_sure() -> None:
    none = Discordant.of(np.ones(5, bool), np.ones(5, bool))
    assert none.p_gain == none.p_loss == 1.0
    annotations = Annotations(labels=np.zeros(6, np.int64))
    figure = FigureOfImages(annotations, lambda o, _: o, np.full(6, 1 / 6))
    same = paired_change(np.arange(6.0), np.arange(6.0), figure, seed=0)
    assert same.value == same.bound(0.05) == 0.0
    assert same.p_gain() == 1.0


@pytest.mark.parametrize("groups", [None, np.array([0, 0, 0, 0, 1, 1, 1, 1])])
def test_both_models_are_judged_on_the_same_resamples(groups: np.ndarray | None) -> None:
    """A constant shift of every image has no spread, however much the images differ."""
    rng = np.random.default_rng(2)
    names = () if groups is None else ("a", "b")
    annotations = Annotations(labels=np.zeros(8, np.int64), groups=groups, group_names=names)
    figure = FigureOfImages(annotations, lambda o, _: o, np.full(8, 1 / 8))
    before = rng.normal(0, 100, 8)
    change = paired_change(before, before - 0.5, figure, n_resamples=50, seed=1)
    assert change.value == pytest.approx(-0.5)
    assert np.ptp(change.resampled) == pytest.approx(0, abs=1e-9)
    assert change.bound(0.05, sign=-1, widening=1.5) == pytest.approx(0.5)
    assert change.p_gain(sign=-1) == 0.0


def test_a_bound_is_drawn_out_from_the_figure() -> None:
    annotations = Annotations(labels=np.zeros(40, np.int64))
    figure = FigureOfImages(annotations, lambda o, _: o, np.full(40, 1 / 40))
    rng = np.random.default_rng(0)
    change = paired_change(np.zeros(40), rng.normal(0.3, 1, 40), figure, seed=3)
    plain, wide = (change.bound(0.05, widening=w) for w in (1.0, 1.5))
    assert change.value - wide == pytest.approx(1.5 * (change.value - plain))
