from __future__ import annotations

import numpy as np
import pytest
from fairlearn import metrics as fairlearn
from hypothesis import given, settings

from repairkit.core.outputs import OutputForm
from repairkit.metrics.group_metrics import RATES, class_furthest_apart, group_rates
from tests.metrics.cases import annotate, grouped_predictions, one_hot

CERTAIN = OutputForm("probabilities")


@given(case=grouped_predictions(n_classes=3))
@settings(deadline=None, max_examples=6)
def test_the_rates_of_every_group_are_those_of_fairlearns_metric_frame(case):
    labels, predictions, groups = case
    annotations, outputs = annotate(labels, groups), one_hot(predictions, 3)
    for class_number in range(3):
        frame = fairlearn.MetricFrame(
            metrics={rate: getattr(fairlearn, rate) for rate in RATES},
            y_true=labels == class_number,
            y_pred=predictions == class_number,
            sensitive_features=groups,
        )
        for (rate, group), metric in group_rates(CERTAIN, class_number, annotations).items():
            found = metric.weights(annotations) @ metric.score(outputs, annotations)
            number = annotations.group_names.index(group)
            assert found == pytest.approx(frame.by_group[rate][number])


@given(case=grouped_predictions(n_classes=3))
@settings(deadline=None, max_examples=6)
def test_the_class_furthest_apart_is_that_of_fairlearns_odds(case):
    labels, predictions, groups = case
    differences = [
        fairlearn.equalized_odds_difference(
            labels == k, predictions == k, sensitive_features=groups
        )
        for k in range(3)
    ]
    worst = class_furthest_apart(one_hot(predictions, 3), annotate(labels, groups), CERTAIN, 3)
    assert differences[worst] == pytest.approx(max(differences))


def test_a_rate_that_no_image_counts_for_is_left_out():
    annotations = annotate([1, 0, 0], [0, 0, 1])
    found = group_rates(CERTAIN, 1, annotations)
    dark, fair = annotations.group_names
    assert ("true_positive_rate", dark) in found
    assert ("true_positive_rate", fair) not in found
    assert ("selection_rate", fair) in found


def test_of_two_classes_the_second_is_the_one_that_is_judged():
    annotations = annotate([0, 1], [0, 1])
    assert class_furthest_apart(np.eye(2), annotations, CERTAIN, 2) == 1
