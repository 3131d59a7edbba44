from __future__ import annotations

import pickle

import numpy as np
import pytest
from fairlearn import metrics as fairlearn
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

from repairkit.core.errors import DataError, SettingsError
from repairkit.core.outputs import OutputForm
from repairkit.metrics.catalogue import make_metric
from tests.metrics.cases import annotate, grouped_predictions, one_hot

CERTAIN = OutputForm("probabilities")
DIFFERENCES = {
    "demographic_parity_difference": fairlearn.demographic_parity_difference,
    "equalized_odds_difference": fairlearn.equalized_odds_difference,
    "equal_opportunity_difference": fairlearn.equal_opportunity_difference,
}
RATIOS = {
    "demographic_parity_ratio": fairlearn.demographic_parity_ratio,
    "equalized_odds_ratio": fairlearn.equalized_odds_ratio,
    "equal_opportunity_ratio": fairlearn.equal_opportunity_ratio,
}


def score(name, labels, predictions, groups, n_classes=2, n_groups=None) -> float:
    annotations = annotate(labels, groups, n_groups)
    metric = make_metric(name, form=CERTAIN, annotations=annotations, n_classes=n_classes)
    figure = metric.score(one_hot(np.asarray(predictions), n_classes), annotations)
    assert not metric.per_image
    assert figure.shape == ()
    low, high = metric.score_range
    assert low <= figure <= high
    return float(figure)


@pytest.mark.parametrize("name", DIFFERENCES)
@given(case=grouped_predictions(n_classes=2))
@settings(deadline=None, max_examples=40)
def test_two_classes_agree_with_fairlearn(name, case):
    labels, predictions, groups = case
    expected = DIFFERENCES[name](labels, predictions, sensitive_features=groups)
    assert score(name, labels, predictions, groups) == pytest.approx(expected)


@pytest.mark.parametrize("name", DIFFERENCES)
@given(case=grouped_predictions(n_classes=3))
@settings(deadline=None, max_examples=15)
def test_several_classes_are_fairlearns_worst_of_one_against_the_rest(name, case):
    labels, predictions, groups = case
    expected = max(
        DIFFERENCES[name](labels == k, predictions == k, sensitive_features=groups)
        for k in range(3)
    )
    assert score(name, labels, predictions, groups, 3) == pytest.approx(expected)


@pytest.mark.parametrize("name", RATIOS)
@given(case=grouped_predictions(n_classes=3), n_classes=st.sampled_from([2, 3]))
@settings(deadline=None, max_examples=6)
def test_ratios_are_fairlearns_and_even_where_nobody_is_chosen(name, case, n_classes):
    labels, predictions, groups = case
    labels, predictions = np.minimum(labels, n_classes - 1), np.minimum(predictions, n_classes - 1)
    classes = range(3) if n_classes == 3 else [1]
    expected = []
    for k in classes:
        with np.errstate(invalid="ignore"):
            ratios = fairlearn_ratios(name, labels == k, predictions == k, groups)
        expected += [1.0 if np.isnan(ratio) else ratio for ratio in ratios]
    assert score(name, labels, predictions, groups, n_classes) == pytest.approx(min(expected))


def fairlearn_ratios(name, labels, predictions, groups) -> list[float]:
    """The ratios that the metric is the least of; Fairlearn drops some NaN."""
    rates = {
        "demographic_parity_ratio": [fairlearn.selection_rate],
        "equal_opportunity_ratio": [fairlearn.true_positive_rate],
        "equalized_odds_ratio": [fairlearn.true_positive_rate, fairlearn.false_positive_rate],
    }[name]
    ratios = [
        fairlearn.MetricFrame(
            metrics=rate, y_true=labels, y_pred=predictions, sensitive_features=groups
        ).ratio()
        for rate in rates
    ]
    if not np.isnan(ratios).any():
        assert min(ratios) == RATIOS[name](labels, predictions, sensitive_features=groups)
    return ratios


@given(case=grouped_predictions(n_classes=3))
@settings(deadline=None, max_examples=40)
def test_the_worst_group_is_that_of_fairlearns_metric_frame(case):
    labels, predictions, groups = case
    frame = fairlearn.MetricFrame(
        metrics=accuracy_score, y_true=labels, y_pred=predictions, sensitive_features=groups
    )
    worst = score("worst_group_accuracy", labels, predictions, groups, 3)
    assert worst == pytest.approx(frame.group_min())
    annotations = annotate(labels, groups)
    mean = make_metric("group_accuracy", form=CERTAIN, annotations=annotations, n_classes=3)
    value = mean.weights(annotations) @ mean.score(one_hot(predictions, 3), annotations)
    assert value == pytest.approx(frame.by_group.mean())


def test_a_group_without_a_class_is_left_out_of_that_rate():
    # Group 2 has no positive image, and finds none: its true positive rate is unknown, not 0.
    labels, groups = [1, 1, 0, 1, 0, 0, 0], [0, 0, 0, 1, 1, 2, 2]
    predictions = [1, 1, 0, 1, 0, 0, 0]
    assert score("equal_opportunity_difference", labels, predictions, groups) == 0.0
    assert score("equalized_odds_difference", labels, predictions, groups) == 0.0


def test_groups_absent_from_a_batch_are_not_judged():
    labels, predictions, groups = [1, 0, 1], [1, 0, 0], [2, 2, 0]
    assert score("worst_group_accuracy", labels, predictions, groups, n_groups=4) == 0.0
    assert score("demographic_parity_difference", labels, predictions, groups, n_groups=4) == 0.5
    alone = score("equalized_odds_difference", [1, 0], [1, 1], [1, 1], n_groups=3)
    assert alone == 0.0
    assert str(alone) == "0.0"


def test_a_nan_is_a_mistake_and_a_prediction_of_no_class():
    annotations = annotate([1, 1, 1], [0, 1, 1])
    outputs = np.array([[np.nan, 1.0], [0.0, 1.0], [0.0, 1.0]])
    for name, expected in (("worst_group_accuracy", 0.0), ("demographic_parity_difference", 1.0)):
        metric = make_metric(name, form=CERTAIN, annotations=annotations, n_classes=2)
        assert metric.score(outputs, annotations) == expected


def test_batches_are_drawn_evenly_over_what_the_rates_are_conditional_on():
    annotations = annotate([0, 0, 0, 1, 0, 1, 1], [0, 0, 0, 0, 1, 1, 1])
    labels, groups = annotations.labels, annotations.groups

    def shares(name: str, n_classes: int) -> list[float]:
        metric = make_metric(name, form=CERTAIN, annotations=annotations, n_classes=n_classes)
        weights = metric.weights(annotations)
        assert weights.sum() == pytest.approx(1.0)
        return [float(weights[(groups == g) & (labels == k)].sum()) for g in (0, 1) for k in (0, 1)]

    by_group = pytest.approx([3 / 8, 1 / 8, 1 / 6, 1 / 3])
    assert shares("worst_group_accuracy", 2) == by_group
    assert shares("demographic_parity_difference", 2) == by_group
    assert shares("equalized_odds_difference", 3) == by_group
    by_cell = pytest.approx([0.25] * 4)
    assert shares("equalized_odds_difference", 2) == by_cell
    assert shares("equal_opportunity_difference", 2) == by_cell
    assert shares("equal_opportunity_difference", 3) == by_cell


@pytest.mark.parametrize("name", [*DIFFERENCES, "worst_group_accuracy"])
def test_weights_of_a_part_without_a_group_name_it(name):
    whole = annotate([0, 1, 1], [0, 1, 2])
    metric = make_metric(name, form=CERTAIN, annotations=whole, n_classes=2)
    with pytest.raises(DataError, match="none of the 1 images is of group 'dark', 'olive'"):
        metric.weights(whole.take(np.array([1])))
    with pytest.raises(SettingsError, match="--group"):
        metric.score(np.zeros((1, 2)), annotate([0]))
    assert pickle.loads(pickle.dumps(metric)) == metric
