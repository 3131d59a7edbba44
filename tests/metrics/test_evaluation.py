from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from repairkit.core.errors import DataError, SettingsError
from repairkit.core.outputs import OutputForm
from repairkit.core.results import Figure
from repairkit.core.suite import Annotations
from repairkit.metrics.catalogue import METRIC_NAMES, make_metric
from repairkit.metrics.evaluation import difference, evaluate, wilson
from repairkit.metrics.resampling import stratified_draws
from repairkit.metrics.user import UserMetric
from tests.metrics.cases import ON_COLUMNS, annotate, noisy_logits, one_hot

LOGITS = OutputForm("logits")
NAMES = (
    "recall:1",
    *(n for n in METRIC_NAMES if ":" not in n and "mean" not in n and n not in ON_COLUMNS),
)


def user_metric(name, function, *, per_image=False):
    return UserMetric(name=name, function=function, per_image=per_image, score_range=(0.0, 1.0))


def metrics_for(annotations, n_classes, names=NAMES, form=LOGITS):
    return [
        make_metric(name, form=form, annotations=annotations, n_classes=n_classes) for name in names
    ]


def grouped_case(n_images=400, n_classes=3, n_groups=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_classes, size=n_images)
    annotations = annotate(labels, rng.integers(n_groups, size=n_images), n_groups)
    return noisy_logits(labels, n_classes, rng), annotations


def test_an_evaluation_holds_every_metric_and_every_group():
    outputs, annotations = grouped_case()
    metrics = metrics_for(annotations, 3)
    found = evaluate(outputs, annotations, metrics, form=LOGITS, suite="test", seed=0)
    assert found.suite == "test"
    assert found.n_images == 400
    assert tuple(found.metrics) == NAMES
    for metric in metrics:
        figure, score = found.metrics[metric.name], metric.score(outputs, annotations)
        value = metric.weights(annotations) @ score if metric.per_image else score
        assert figure.value == pytest.approx(value)
        low, high = metric.score_range
        assert low <= figure.ci_low <= figure.value <= figure.ci_high <= high
        assert figure.ci_low < figure.ci_high
    hits = LOGITS.predictions(outputs) == annotations.labels
    for number, name in enumerate(annotations.group_names):
        members = annotations.groups == number
        assert found.group_sizes[name] == members.sum()
        assert found.groups[name].value == pytest.approx(hits[members].mean())


def test_one_seed_gives_one_answer_whatever_else_is_asked():
    outputs, annotations = grouped_case()

    def accuracy(names, seed) -> Figure:
        metrics = metrics_for(annotations, 3, names)
        return evaluate(
            outputs, annotations, metrics, form=LOGITS, suite="t", n_resamples=200, seed=seed
        ).metrics["accuracy"]

    assert accuracy(NAMES, 5) == accuracy(("accuracy",), 5)
    assert accuracy(NAMES, 5) != accuracy(NAMES, 6)


def test_resamples_keep_the_size_of_every_stratum():
    strata = np.array([2, 0, 2, 2, 0, 7])
    (draws,) = stratified_draws(strata, 50, np.random.default_rng(0))
    assert draws.shape == (50, 6)
    assert (np.sort(strata[draws], axis=1) == np.sort(strata)).all()
    assert len(np.unique(draws, axis=0)) > 20


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(3)
    share, n_images, n_trials, held = 0.8, 150, 200, 0
    annotations = annotate(np.zeros(n_images))
    metrics = metrics_for(annotations, 2, ("accuracy",))
    for _ in range(n_trials):
        outputs = one_hot((rng.random(n_images) > share).astype(np.int64), 2)
        figure = evaluate(
            outputs, annotations, metrics, form=LOGITS, suite="t", n_resamples=300, seed=0
        ).metrics["accuracy"]
        held += figure.ci_low <= share <= figure.ci_high
    assert 0.9 <= held / n_trials <= 0.99


def test_paired_intervals_are_narrower_than_the_noise_of_each_model():
    outputs, annotations = grouped_case()
    metrics = metrics_for(annotations, 3, ("accuracy",))
    better = outputs.copy()
    better[np.arange(20), annotations.labels[:20]] += 9.0
    change = difference(outputs, better, annotations, metrics, form=LOGITS, seed=0)["accuracy"]
    alone = evaluate(outputs, annotations, metrics, form=LOGITS, suite="t", seed=0)
    assert 0.0 < change.value < 0.06
    width = alone.metrics["accuracy"].ci_high - alone.metrics["accuracy"].ci_low
    assert change.ci_high - change.ci_low < width / 2


def test_models_that_answer_alike_do_not_differ_at_all():
    outputs, annotations = grouped_case()
    per_image = user_metric("u:image", lambda o, *_: o[:, 0] / 9 + 0.5, per_image=True)
    together = user_metric("u:set", lambda o, *_: o.mean() / 9 + 0.5)
    metrics = [*metrics_for(annotations, 3), per_image, together]
    found = difference(
        outputs, outputs.copy(), annotations, metrics, form=LOGITS, n_resamples=100, seed=0
    )
    groups = [f"accuracy:{name}" for name in annotations.group_names]
    assert list(found) == [*NAMES, "u:image", "u:set", *groups]
    assert set(found.values()) == {Figure(0.0, 0.0, 0.0)}


def test_a_difference_is_after_less_before():
    outputs, annotations = grouped_case()
    worse = -outputs
    metrics = metrics_for(annotations, 3)
    found = difference(outputs, worse, annotations, metrics, form=LOGITS, seed=0)
    first, second = (
        evaluate(o, annotations, metrics, form=LOGITS, suite="t", n_resamples=2, seed=0)
        for o in (outputs, worse)
    )
    for name in NAMES:
        change = second.metrics[name].value - first.metrics[name].value
        assert found[name].value == pytest.approx(change)
    for name, figure in second.groups.items():
        change = figure.value - first.groups[name].value
        assert found[f"accuracy:{name}"].value == pytest.approx(change)
    assert found["accuracy"].ci_high < 0.0


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (7, 20), (300, 1000)])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_wilson_agrees_with_scipy(successes, n, confidence):
    expected = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert wilson(successes, n, confidence=confidence) == pytest.approx(tuple(expected))


def test_shares_that_a_bootstrap_cannot_judge_get_wilsons_interval():
    # Group dark: 40 images, all right. Group fair: 10 images, 7 right. Group olive: 50, 30 right.
    groups = np.repeat([0, 1, 2], [40, 10, 50])
    predictions = np.repeat([1, 1, 0, 1, 0], [40, 7, 3, 30, 20])
    annotations = annotate(np.ones(100), groups)
    names = ("accuracy", "worst_group_accuracy", "recall:1")
    metrics = metrics_for(annotations, 2, names, LOGITS)
    outputs = one_hot(predictions, 2)
    found = evaluate(outputs, annotations, metrics, form=LOGITS, suite="t", seed=0)
    dark, fair, olive = found.groups.values()
    assert (dark.ci_low, dark.ci_high) == pytest.approx(wilson(40, 40))
    assert (fair.ci_low, fair.ci_high) == pytest.approx(wilson(7, 10))
    assert (olive.ci_low, olive.ci_high) != pytest.approx(wilson(30, 50))
    part = annotations.take(np.arange(50))
    some = evaluate(outputs[:50], part, metrics, form=LOGITS, suite="t", seed=0)
    worst = some.metrics["worst_group_accuracy"]
    assert (worst.ci_low, worst.ci_high) == pytest.approx(wilson(7, 10))
    all_right = annotations.take(np.arange(40))
    perfect = evaluate(outputs[:40], all_right, metrics, form=LOGITS, suite="t", seed=0)
    for name in names:
        figure = perfect.metrics[name]
        assert (figure.value, figure.ci_low, figure.ci_high) == pytest.approx(
            (1.0, *wilson(40, 40))
        )
    assert perfect.group_sizes == {"dark": 40}
    assert list(perfect.groups) == ["dark"]


def test_a_loss_of_zero_is_no_share():
    annotations = annotate(np.zeros(10))
    metrics = metrics_for(annotations, 2, ("loss",))
    outputs = np.tile([900.0, 0.0], (10, 1))
    found = evaluate(outputs, annotations, metrics, form=LOGITS, suite="t", seed=0)
    assert found.metrics["loss"] == Figure(0.0, 0.0, 0.0)
    assert found.groups == found.group_sizes == {}


def test_resamples_without_the_class_say_nothing_about_its_recall():
    annotations = annotate([0, 0, 0, 1])
    (metric,) = metrics_for(annotations, 2, ("recall:1",))
    outputs = np.array([[1.0, 0.0]] * 4)
    found = evaluate(outputs, annotations, [metric], form=LOGITS, suite="t", n_resamples=3, seed=1)
    figure = found.metrics["recall:1"]
    assert (figure.value, figure.ci_low, figure.ci_high) == pytest.approx((0.0, *wilson(0, 1)))


def test_regressors_and_other_outputs_have_no_accuracy_by_group():
    rng = np.random.default_rng(0)
    answers = rng.normal(size=(60, 1))
    annotations = Annotations(
        labels=answers[:, 0] + 0.1, groups=np.repeat([0, 1], 30), group_names=("dark", "fair")
    )
    form = OutputForm("values")
    metrics = metrics_for(annotations, 1, ("mean_absolute_error",), form)
    found = evaluate(answers, annotations, metrics, form=form, suite="t", seed=0)
    assert found.metrics["mean_absolute_error"].value == pytest.approx(0.1)
    assert found.groups == {}
    assert found.group_sizes == {"dark": 30, "fair": 30}
    boxes = user_metric("u:set", lambda o, *_: float(o.max() > 0))
    other = evaluate(
        rng.normal(size=(60, 5, 4)),
        annotations,
        [boxes],
        form=None,
        suite="t",
        n_resamples=50,
        seed=0,
    )
    assert other.metrics["u:set"].value == 1.0
    assert other.groups == {}


def test_resamples_are_judged_without_looking_at_outputs_again(monkeypatch):
    outputs, annotations = grouped_case(n_images=2000, n_classes=10, n_groups=4)
    metrics = metrics_for(annotations, 10)
    calls = []
    predictions = OutputForm.predictions
    monkeypatch.setattr(
        OutputForm, "predictions", lambda form, o: calls.append(1) or predictions(form, o)
    )
    evaluate(outputs, annotations, metrics, form=LOGITS, suite="t", n_resamples=2000, seed=0)
    assert len(calls) < 20


def test_many_classes_fit_into_memory():
    outputs, annotations = grouped_case(n_images=50, n_classes=1000, n_groups=4)
    metrics = metrics_for(annotations, 1000, ("demographic_parity_difference",))
    found = evaluate(outputs, annotations, metrics, form=LOGITS, suite="t", n_resamples=600, seed=0)
    assert found.metrics["demographic_parity_difference"].value > 0.0


@pytest.mark.parametrize(
    ("n_images", "settings", "error", "message"),
    [
        (3, {}, DataError, "suite 'test' has 3 labels and 4 outputs"),
        (0, {}, DataError, "suite 'test' holds no images"),
        (4, {"n_resamples": 0}, SettingsError, "0 resamples at confidence 0.95"),
        (4, {"confidence": 1.0}, SettingsError, "confidence between 0 and 1"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_one_line(n_images, settings, error, message):
    outputs, annotations = np.zeros((4, 2)), annotate(np.zeros(n_images))
    metrics = metrics_for(annotate([0]), 2, ("accuracy",))
    arguments = {"form": LOGITS, "seed": 0} | settings
    with pytest.raises(error, match=message):
        evaluate(outputs, annotations, metrics, suite="test", **arguments)
    with pytest.raises(error, match=message):
        difference(outputs, outputs, annotations, metrics, **arguments)
