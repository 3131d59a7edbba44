from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    log_loss,
    mean_absolute_error,
    recall_score,
)

from repairkit.core.errors import DataError, SettingsError
from repairkit.core.outputs import LOG_FLOOR, OutputForm
from repairkit.core.suite import Annotations
from repairkit.metrics.catalogue import make_metric
from repairkit.metrics.definition import auxiliary_of
from tests.metrics.cases import annotate, grouped_predictions, noisy_logits, one_hot

LOGITS = OutputForm("logits")
CERTAIN = OutputForm("probabilities")


def value_of(metric, outputs, annotations) -> float:
    """V as the core protocol defines it for metrics that are means over images."""
    weights, scores = metric.weights(annotations), metric.score(outputs, annotations)
    assert metric.per_image
    assert weights.shape == scores.shape == (len(annotations),)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1.0)
    low, high = metric.score_range
    assert low <= scores.min()
    assert scores.max() <= high
    return float(weights @ scores)


@given(grouped_predictions(n_classes=3))
@settings(deadline=None)
def test_weighted_sums_equal_the_metrics_of_scikit_learn(case):
    labels, predictions, groups = case
    annotations, outputs = annotate(labels, groups), one_hot(predictions, 3)

    def value(name: str) -> float:
        metric = make_metric(name, form=CERTAIN, annotations=annotations, n_classes=3)
        return value_of(metric, outputs, annotations)

    assert value("accuracy") == pytest.approx(accuracy_score(labels, predictions))
    recalls = recall_score(labels, predictions, average=None, zero_division=0)
    assert [value(f"recall:{k}") for k in range(3)] == pytest.approx(list(recalls))
    by_group = [
        accuracy_score(labels[groups == g], predictions[groups == g]) for g in np.unique(groups)
    ]
    assert value("group_accuracy") == pytest.approx(np.mean(by_group))


def test_group_accuracy_by_class_is_balanced_accuracy():
    rng = np.random.default_rng(1)
    labels, predictions = rng.integers(4, size=(2, 60))
    annotations = annotate(labels, labels)
    metric = make_metric("group_accuracy", form=CERTAIN, annotations=annotations, n_classes=4)
    expected = balanced_accuracy_score(labels, predictions)
    assert value_of(metric, one_hot(predictions, 4), annotations) == pytest.approx(expected)


def test_loss_is_the_log_loss_of_which_less_is_better():
    rng = np.random.default_rng(2)
    labels = rng.integers(5, size=80)
    logits = noisy_logits(labels, 5, rng)
    annotations = annotate(labels)
    metric = make_metric("loss", form=LOGITS, annotations=annotations, n_classes=5)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = log_loss(labels, probabilities, labels=range(5))
    assert value_of(metric, logits, annotations) == pytest.approx(expected)
    assert metric.score_range == (0.0, -LOG_FLOOR)
    assert not metric.measure.greater_is_better


def test_recall_knows_classes_by_name_and_by_number():
    annotations = Annotations(labels=np.array([0, 0, 1, 2]), class_names=("2", "cat", "dog"))
    outputs = one_hot(np.array([0, 1, 1, 0]), 3)

    def value(name: str) -> float:
        metric = make_metric(name, form=CERTAIN, annotations=annotations, n_classes=3)
        assert metric.name == name
        return value_of(metric, outputs, annotations)

    assert value("recall:cat") == value("recall:1") == 1.0
    assert value("recall:0") == 0.5
    assert value("recall:2") == 0.5  # names come before numbers


def test_a_nan_counts_as_a_mistake():
    annotations = annotate([0, 0])
    outputs = np.array([[np.nan, 1.0], [1.0, 0.0]])
    for name, expected in (("accuracy", [0.0, 1.0]), ("loss", [-LOG_FLOOR, 0.0])):
        metric = make_metric(name, form=CERTAIN, annotations=annotations, n_classes=2)
        np.testing.assert_array_equal(metric.score(outputs, annotations), expected)


def test_mean_absolute_error_is_bounded_by_the_range_of_the_labels():
    annotations = Annotations(labels=np.array([10.0, 20.0, 30.0]))
    metric = make_metric(
        "mean_absolute_error", form=OutputForm("values"), annotations=annotations, n_classes=1
    )
    answers = np.array([[11.0], [18.0], [30.0]])
    expected = mean_absolute_error(annotations.labels, answers[:, 0])
    assert value_of(metric, answers, annotations) == pytest.approx(expected)
    assert metric.score_range == (0.0, 20.0)
    broken = metric.score(np.array([np.nan, 1e9, -np.inf]), annotations)
    np.testing.assert_array_equal(broken, [20.0, 20.0, 20.0])
    with pytest.raises(SettingsError, match="2 numbers per image"):
        metric.score(np.zeros((3, 2)), annotations)


@pytest.mark.parametrize(
    ("labels", "message"),
    [([3.0, 3.0], "every label is 3"), ([1.0, np.nan], "missing or not finite"), ([], "missing")],
)
def test_labels_that_give_errors_no_scale_are_refused(labels, message):
    with pytest.raises(DataError, match=message):
        make_metric(
            "mean_absolute_error",
            form=OutputForm("values"),
            annotations=Annotations(labels=np.array(labels)),
            n_classes=1,
        )


def test_a_part_without_a_group_or_class_is_named():
    whole = Annotations(
        labels=np.array([0, 1]),
        groups=np.array([0, 1]),
        group_names=("dark", "fair"),
        class_names=("cat", "dog"),
    )
    part = whole.take(np.array([1]))
    by_group = make_metric("group_accuracy", form=CERTAIN, annotations=whole, n_classes=2)
    with pytest.raises(DataError, match="none of the 1 images is of group 'dark'"):
        by_group.weights(part)
    by_class = make_metric("recall:cat", form=CERTAIN, annotations=whole, n_classes=2)
    with pytest.raises(DataError, match="none of the 1 images is of class 'cat'"):
        by_class.weights(part)
    unnamed = make_metric("recall:0", form=CERTAIN, annotations=annotate([0, 1]), n_classes=2)
    with pytest.raises(DataError, match="is of class 0"):
        unnamed.weights(annotate([1]))
    everyone = make_metric("accuracy", form=CERTAIN, annotations=whole, n_classes=2)
    with pytest.raises(DataError, match="holds no images"):
        everyone.weights(whole.take(np.array([], np.intp)))


@pytest.mark.parametrize("name", ["accuracy", "loss", "recall:1", "group_accuracy"])
def test_metrics_travel_to_workers(name):
    annotations = annotate([0, 1, 1], [0, 1, 1])
    metric = make_metric(name, form=LOGITS, annotations=annotations, n_classes=2)
    outputs = np.array([[0.0, 1.0], [0.0, 1.0], [3.0, 1.0]])
    there = pickle.loads(pickle.dumps(metric))
    np.testing.assert_array_equal(
        there.score(outputs, annotations), metric.score(outputs, annotations)
    )


@pytest.mark.parametrize("name", ["accuracy", "recall:1", "group_accuracy", "group_accuracy:fair"])
def test_soft_hits_compare_the_true_class_with_the_likeliest_other(name: str) -> None:
    rng = np.random.default_rng(3)
    labels, groups = rng.integers(4, size=50), rng.integers(2, size=50)
    annotations, logits = annotate(labels, groups), 3 * rng.standard_normal((50, 4))
    metric = make_metric(name, form=LOGITS, annotations=annotations, n_classes=4)
    soft = auxiliary_of(metric)
    assert soft is not None
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    own = chances[np.arange(50), labels]
    others = np.where(np.eye(4, dtype=bool)[labels], 0, chances).max(axis=1)
    scores = soft.score(logits, annotations)
    np.testing.assert_allclose(scores, own / (own + others), rtol=1e-9)
    np.testing.assert_array_equal(scores > 0.5, metric.score(logits, annotations) == 1)
    np.testing.assert_array_equal(soft.weights(annotations), metric.weights(annotations))
    assert value_of(soft, logits, annotations) > 0
    assert soft.name == f"{name} (soft)"


def test_soft_hits_of_outputs_that_are_no_numbers_are_none() -> None:
    annotations = annotate(np.array([0, 1, 1]), np.zeros(3, np.int64))
    for form, outputs in (
        (LOGITS, np.array([[np.nan, 1.0], [-np.inf, 0.0], [np.inf, 0.0]])),
        (CERTAIN, np.array([[np.nan, 1.0], [0.0, 1.0], [1.0, 0.0]])),
    ):
        metric = make_metric("accuracy", form=form, annotations=annotations, n_classes=2)
        soft = auxiliary_of(metric)
        assert soft is not None
        first, second, _ = soft.score(outputs, annotations)
        assert first == 0
        assert second == pytest.approx(1)


def test_losses_have_no_auxiliary_metric() -> None:
    annotations = annotate(np.array([0, 1]), np.zeros(2, np.int64))
    metric = make_metric("loss", form=LOGITS, annotations=annotations, n_classes=2)
    assert auxiliary_of(metric) is None
