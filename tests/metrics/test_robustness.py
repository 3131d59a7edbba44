"""Robustness, from its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repairkit.core.attacked import is_attacked
from repairkit.core.errors import DataError, SettingsError
from repairkit.core.outputs import LOG_FLOOR, OutputForm
from repairkit.core.suite import Annotations
from repairkit.metrics.catalogue import make_metric
from repairkit.metrics.evaluation import difference, evaluate
from tests.metrics.cases import one_hot

FORM = OutputForm("probabilities")
NAMES = ("robustness", "clean_accuracy", "attack_success")


def attacked(labels: list[int], targets: list[int], made: list[int]) -> Annotations:
    columns = {"target": np.array(targets), "adversarial": np.array(made, np.uint8)}
    return Annotations(labels=np.array(labels), attributes=columns)


def value(name: str, predictions: list[int], annotations: Annotations) -> float:
    metric = make_metric(name, form=FORM, annotations=annotations, n_classes=3)
    scores = metric.score(one_hot(np.array(predictions), 3), annotations)
    low, high = metric.score_range
    assert ((scores >= low) & (scores <= high)).all()
    weights = metric.weights(annotations)
    assert weights.sum() == pytest.approx(1)
    return float(scores @ weights)


CLASS = st.integers(0, 2)
IMAGES = st.lists(st.tuples(CLASS, CLASS, CLASS), min_size=1, max_size=15)


@given(clean=IMAGES, fooling=IMAGES)
def test_robustness_is_success_less_clean_accuracy(
    clean: list[tuple[int, int, int]], fooling: list[tuple[int, int, int]]
) -> None:
    rows = [(*row, 0) for row in clean] + [(*row, 1) for row in fooling]
    labels, targets, said, made = (list(column) for column in zip(*rows, strict=True))
    annotations = attacked(labels, targets, made)
    success = np.mean([s == t for _, t, s, m in rows if m])
    accuracy = np.mean([s == y for y, _, s, m in rows if not m])
    found = {name: value(name, said, annotations) for name in NAMES}
    assert found["attack_success"] == pytest.approx(success)
    assert found["clean_accuracy"] == pytest.approx(accuracy)
    assert found["robustness"] == pytest.approx(success - accuracy)


@given(clean=IMAGES, fooling=IMAGES, floor=st.floats(0.01, 1))
def test_a_floor_makes_every_broken_model_worse_than_any_that_keeps_it(
    clean: list[tuple[int, int, int]], fooling: list[tuple[int, int, int]], floor: float
) -> None:
    rows = [(*row, 0) for row in clean] + [(*row, 1) for row in fooling]
    labels, targets, said, made = (list(column) for column in zip(*rows, strict=True))
    annotations = attacked(labels, targets, made)
    name = f"robustness_above:{floor}"
    metric = make_metric(name, form=FORM, annotations=annotations, n_classes=3)
    assert not metric.per_image
    assert not metric.measure.greater_is_better
    found = float(metric.score(one_hot(np.array(said), 3), annotations))
    halves = {half: value(half, said, annotations) for half in NAMES}
    if halves["clean_accuracy"] >= floor + 1e-9:
        assert found == pytest.approx(halves["attack_success"])
    elif halves["clean_accuracy"] < floor - 1e-9:
        assert found == pytest.approx(2 - halves["clean_accuracy"] / floor)
        assert 1 < found <= 2


@pytest.mark.parametrize("floor", ["0", "1.5", "-1", "nan", "high", "*", ""])
def test_a_floor_that_is_none_is_refused(floor: str) -> None:
    annotations = attacked([0, 0], [1, 1], [0, 1])
    with pytest.raises(SettingsError, match="above 0 and at most 1"):
        make_metric(f"robustness_above:{floor}", form=FORM, annotations=annotations, n_classes=3)
    with pytest.raises(SettingsError, match=r"such as robustness_above:0\.7"):
        make_metric("robustness_above", form=FORM, annotations=annotations, n_classes=3)


def test_the_marginal_of_one_image_lies_in_a_range_of_four() -> None:
    """What bandits' bounds rest on: twice the width of the score's range."""
    annotations = attacked([0, 0], [1, 1], [0, 1])
    metric = make_metric("robustness", form=FORM, annotations=annotations, n_classes=3)
    good, bad = (metric.score(one_hot(np.array(s), 3), annotations) for s in ([1, 1], [0, 0]))
    assert (good - bad).tolist() == [2, 2]
    assert 2 * (metric.score_range[1] - metric.score_range[0]) == 4


def test_a_certain_figure_has_no_noise_of_the_mixture() -> None:
    """Resamples keep as many clean and adversarial images as there are."""
    n = 40
    annotations = attacked([0] * 2 * n, [1] * 2 * n, [0] * n + [1] * n)
    metrics = [make_metric(name, form=FORM, annotations=annotations, n_classes=3) for name in NAMES]
    before = one_hot(np.array([0] * n + [1] * n), 3)
    found = evaluate(before, annotations, metrics, form=FORM, suite="test", seed=0).metrics
    assert found["robustness"].ci_low == found["robustness"].ci_high == 0
    assert found["attack_success"].value == found["clean_accuracy"].value == 1
    after = one_hot(np.zeros(2 * n, np.intp), 3)
    change = difference(before, after, annotations, metrics, form=FORM, seed=0)
    assert change["robustness"].ci_low == change["robustness"].ci_high == -1


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.1, 50), kind=st.sampled_from([0, 1]))
def test_the_smooth_robustness_is_a_mean_of_log_likelihoods(
    seed: int, scale: float, kind: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = scale * rng.standard_normal((8, 3))
    odds = np.exp(logits - logits.max(1, keepdims=True))
    likely = odds / odds.sum(1, keepdims=True)
    labels, targets, made = rng.integers(0, 3, 8), rng.integers(0, 3, 8), np.arange(8) % 2
    annotations = attacked(labels.tolist(), targets.tolist(), made.tolist())
    form = OutputForm(("logits", "probabilities")[kind])
    metric = make_metric("robustness_loss", form=form, annotations=annotations, n_classes=3)
    found = metric.score((logits, likely)[kind], annotations)
    for row in range(8):
        others = [c for c in range(3) if c != targets[row]]
        expected = likely[row, others].sum() if made[row] else likely[row, labels[row]]
        assert found[row] == pytest.approx(-np.log(max(expected, 1e-7)), abs=1e-6)


def test_outputs_that_are_no_numbers_are_wrong() -> None:
    annotations = attacked([0, 0], [1, 1], [0, 1])
    broken = np.full((2, 3), np.nan)
    found = {}
    for name in ("robustness_loss", "robustness", "attack_success"):
        metric = make_metric(name, form=OutputForm("logits"), annotations=annotations, n_classes=3)
        found[name] = metric.score(broken, annotations).tolist()
    assert found["robustness_loss"] == [-LOG_FLOOR, -LOG_FLOOR]
    assert found["robustness"] == [1, -1]
    assert found["attack_success"][1] == 0


def test_images_without_an_attack_are_refused() -> None:
    plain = Annotations(labels=np.zeros(3, np.int64))
    assert not is_attacked(plain)
    with pytest.raises(SettingsError, match="repairkit attack"):
        make_metric("robustness", form=FORM, annotations=plain, n_classes=3)
    texts = {"target": np.array(["a"] * 3), "adversarial": np.array([0, 1, 1])}
    with pytest.raises(SettingsError, match="repairkit attack"):
        make_metric(
            "robustness",
            form=FORM,
            annotations=Annotations(labels=np.zeros(3, np.int64), attributes=texts),
            n_classes=3,
        )


def test_targets_beyond_the_classes_are_refused() -> None:
    with pytest.raises(DataError, match="names classes from 3 to 3"):
        value("attack_success", [0, 0], attacked([0, 0], [-1, 3], [0, 1]))


def test_one_kind_of_images_alone_is_refused() -> None:
    with pytest.raises(DataError, match="is clean"):
        value("robustness", [0, 0], attacked([0, 0], [1, 1], [1, 1]))


def test_groups_are_judged_by_their_clean_images() -> None:
    columns = {"target": np.array([1, 1, 1, 1]), "adversarial": np.array([0, 0, 1, 1])}
    labels, groups = np.zeros(4, np.int64), np.array([0, 1, 0, 1])
    annotations = Annotations(
        labels=labels, groups=groups, group_names=("a", "b"), attributes=columns
    )
    metric = make_metric("robustness", form=FORM, annotations=annotations, n_classes=3)
    outputs = one_hot(np.array([0, 1, 1, 1]), 3)
    found = evaluate(outputs, annotations, [metric], form=FORM, suite="test", seed=0)
    assert {name: figure.value for name, figure in found.groups.items()} == {"a": 1, "b": 0}
    assert found.group_sizes == {"a": 1, "b": 1}
