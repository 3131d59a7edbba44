"""An image and its spoiled copies count as one image where it is asked how sure a figure is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repairkit.core.outputs import OutputForm
from repairkit.core.suite import Annotations, Array
from repairkit.metrics.catalogue import make_metric
from repairkit.metrics.chance import Discordant
from repairkit.metrics.evaluation import difference, evaluate
from repairkit.metrics.resampling import stratified_draws

FORM = OutputForm("logits")
N, TIMES = 60, 4
RNG = np.random.default_rng(7)
LABELS = RNG.integers(0, 3, N)
BEFORE, AFTER = RNG.standard_normal((2, N, 3)) + 2 * np.eye(3)[LABELS]
PLAIN = Annotations(labels=LABELS)
KINDS = np.repeat(["none", "blur", "jpeg", "noise"], N)
COPIES = Annotations(
    labels=np.tile(LABELS, TIMES),
    attributes={"corruption": KINDS, "image": np.tile(np.arange(N), TIMES)},
)
BLIND = Annotations(labels=np.tile(LABELS, TIMES))


def tiled(outputs: Array) -> Array:
    return np.tile(outputs, (TIMES, 1))


def accuracy(about: Annotations):
    return make_metric("accuracy", form=FORM, annotations=about, n_classes=3)


def test_copies_that_agree_say_no_more_than_the_images() -> None:
    of_images = evaluate(BEFORE, PLAIN, [accuracy(PLAIN)], form=FORM, suite="test", seed=1)
    of_copies = evaluate(tiled(BEFORE), COPIES, [accuracy(COPIES)], form=FORM, suite="t", seed=1)
    blind = evaluate(tiled(BEFORE), BLIND, [accuracy(BLIND)], form=FORM, suite="t", seed=1)
    widths = [
        one.metrics["accuracy"].ci_high - one.metrics["accuracy"].ci_low
        for one in (of_images, of_copies, blind)
    ]
    assert widths[0] == pytest.approx(widths[1])
    assert widths[2] < 0.7 * widths[0]
    change = difference(BEFORE, AFTER, PLAIN, [accuracy(PLAIN)], form=FORM, seed=1)
    same = difference(tiled(BEFORE), tiled(AFTER), COPIES, [accuracy(COPIES)], form=FORM, seed=1)
    assert same["accuracy"].value == pytest.approx(change["accuracy"].value)
    assert same["accuracy"].ci_low == pytest.approx(change["accuracy"].ci_low)
    assert same["accuracy"].ci_high == pytest.approx(change["accuracy"].ci_high)


def test_one_image_that_turns_right_in_all_its_copies_is_no_sure_gain() -> None:
    wrong = np.full((1, 3), 0.0) - 9 * np.eye(3)[LABELS[:1]]
    before = np.concatenate([wrong, 9 * np.eye(3)[LABELS[1:]]])
    after = 9 * np.eye(3)[LABELS]
    for about, sure in ((COPIES, False), (BLIND, True)):
        outputs = [np.tile(o, (8 if about is BLIND else TIMES, 1)) for o in (before, after)]
        whole = Annotations(labels=np.tile(LABELS, 8)) if about is BLIND else about
        change = difference(*outputs, whole, [accuracy(whole)], form=FORM, seed=1)["accuracy"]
        assert (change.ci_low > 0) is sure


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1), st.integers(1, 5))
def test_the_sign_test_counts_families(answers: list[tuple[bool, bool]], times: int) -> None:
    before, after = (np.array(column) for column in zip(*answers, strict=True))
    twins = np.tile(np.arange(len(before)), times)
    found = Discordant.of(np.tile(before, times), np.tile(after, times), twins)
    assert found == Discordant.of(before, after)


@given(st.integers(2, 12), st.integers(0, 9), st.booleans())
@settings(max_examples=30, deadline=None)
def test_draws_keep_families_whole_and_strata_full(n: int, seed: int, ragged: bool) -> None:
    rng = np.random.default_rng(seed)
    twins, kind = np.tile(np.arange(n), 3), np.repeat(np.arange(3), n)
    kept = rng.permutation(3 * n)
    if ragged:
        kept = kept[: 2 * n]
    twins, kind = twins[kept], kind[kept]
    for draws in stratified_draws(kind, 20, rng, twins):
        assert draws.shape == (20, len(kept))
        for draw in draws:
            np.testing.assert_array_equal(np.bincount(kind[draw]), np.bincount(kind))
            counts = np.bincount(draw, minlength=len(kept))
            for family in range(n):
                assert len(set(counts[twins == family])) <= 1
