from __future__ import annotations

import numpy as np
import pytest

from repairkit.core.errors import DataError, SettingsError
from repairkit.core.outputs import OutputForm
from repairkit.core.suite import Annotations
from repairkit.metrics.catalogue import METRIC_NAMES, is_user_metric, make_metric, spell_out
from tests.metrics.cases import ON_COLUMNS

LABELS = np.array([0, 1, 2, 1])
NAMED = Annotations(
    labels=LABELS, class_names=("cat", "dog", "fox"), attributes={"race": LABELS, "sex": LABELS}
)
GROUPED = Annotations(
    labels=LABELS,
    groups=np.array([0, 1, 0, 1]),
    group_names=("dark", "fair"),
    class_names=NAMED.class_names,
)
CLASSES = OutputForm("logits")
VALUES = OutputForm("values")


def make(name: str, form: OutputForm | None = CLASSES, annotations: Annotations = NAMED):
    return make_metric(name, form=form, annotations=annotations, n_classes=3)


@pytest.mark.parametrize("name", [n for n in METRIC_NAMES if ":" not in n and n not in ON_COLUMNS])
def test_every_metric_with_a_fixed_name_can_be_made(name):
    form = VALUES if name == "mean_absolute_error" else CLASSES
    metric = make(name, form, GROUPED)
    assert metric.name == name
    low, high = metric.score_range
    assert low < high
    assert metric.weights(GROUPED).sum() == pytest.approx(1.0)


def test_a_user_metric_is_known_by_its_colon():
    assert is_user_metric("judge:nearest")
    assert not is_user_metric("recall:cat")
    assert not is_user_metric("accuracy")


@pytest.mark.parametrize(
    ("name", "form", "message"),
    [
        ("acuracy", CLASSES, "no metric 'acuracy'; did you mean accuracy.*module:function"),
        ("robustness", CLASSES, "no columns adversarial .* and target .*repairkit attack"),
        ("zzz", CLASSES, "no metric 'zzz'; use one of: accuracy, loss, robustness"),
        ("recall", CLASSES, "which class.*recall:CLASS or one of: cat, dog, fox"),
        ("recall:cats", CLASSES, "no class 'cats'; did you mean 'cat'.*0 to 2.*cat, dog, fox"),
        ("recall:3", CLASSES, "no class '3'"),
        ("recall:", CLASSES, "no class ''"),
        ("group_accuracy", CLASSES, r"with --group \(columns found: race, sex\)"),
        ("equalized_odds_difference", CLASSES, "none are named; name their column with --group"),
        ("mean_absolute_error", CLASSES, "for regressors and this model gives logits"),
        ("accuracy", VALUES, "needs classes and this model is judged as a regressor"),
        ("group_accuracy", VALUES, "needs classes"),
        ("accuracy", None, "needs class scores or one number per image"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(name, form, message):
    with pytest.raises(SettingsError, match=message) as caught:
        make(name, form)
    assert "\n" not in str(caught.value)


def test_many_classes_are_not_all_listed():
    many = Annotations(labels=LABELS, class_names=tuple(f"class{k}" for k in range(1000)))
    with pytest.raises(SettingsError, match="class19 and 980 more"):
        make("recall:zebra", annotations=many)


def test_a_single_group_cannot_differ():
    alone = Annotations(labels=LABELS, groups=np.zeros(4, np.int64), group_names=("dark",))
    with pytest.raises(SettingsError, match="there is only 'dark'"):
        make("demographic_parity_difference", annotations=alone)
    assert make("worst_group_accuracy", annotations=alone).name == "worst_group_accuracy"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1, 7]), r"1 of 3 labels are beyond the model's 3 classes \(first: 7\)"),
        (np.array([-1, 1]), "first: -1"),
        (np.array([0.5, 1.0]), "type float64 and class numbers were expected"),
    ],
)
def test_labels_that_the_model_does_not_know_are_refused(labels, message):
    with pytest.raises(DataError, match=message):
        make("accuracy", annotations=Annotations(labels=labels))


def test_every_class_and_group_with_an_image_is_spelt_out_once():
    labels = Annotations(
        labels=np.array([2, 0, 0, 2]),
        groups=np.array([0, 1, 1, 0]),
        group_names=("dark", "fair", "none"),
        class_names=NAMED.class_names,
    )
    names = ("accuracy", "recall:fox", "recall:*", "group_accuracy:*")
    spelt = ("accuracy", "recall:fox", "recall:cat", "group_accuracy:dark", "group_accuracy:fair")
    assert spell_out(names, labels, 3) == spelt
    assert spell_out(("recall:*",), Annotations(labels=np.array([1, 4])), 6) == (
        "recall:1",
        "recall:4",
    )


def test_the_accuracy_of_a_group_looks_at_its_images_alone():
    outputs = np.eye(3)[[0, 0, 2, 1]]  # right, wrong, right, right
    figures = {}
    for group in ("dark", "fair"):
        metric = make(f"group_accuracy:{group}", CLASSES, GROUPED)
        figures[group] = float(metric.weights(GROUPED) @ metric.score(outputs, GROUPED))
    assert figures == {"dark": 1.0, "fair": 0.5}
    whole = make("group_accuracy", CLASSES, GROUPED)
    assert whole.weights(GROUPED) @ whole.score(outputs, GROUPED) == np.mean([1.0, 0.5])
    assert whole.scorer == make("recall:dog", CLASSES, GROUPED).scorer
    with pytest.raises(SettingsError, match="no group 'darker'; use one of: dark, fair"):
        make("group_accuracy:darker", CLASSES, GROUPED)
    empty = Annotations(labels=LABELS, groups=np.zeros(4, np.int64), group_names=("dark", "fair"))
    with pytest.raises(DataError, match="none of the 4 images is of group 'fair'"):
        make("group_accuracy:fair", CLASSES, empty).weights(empty)


@pytest.mark.parametrize("written", ["Zoë", "Zoe\u0308", " Zoe\u0308 ", "Zoë\u00a0"])
def test_a_class_or_group_is_found_however_its_letters_are_composed(written):
    named = Annotations(
        labels=LABELS,
        groups=np.array([0, 1, 0, 1]),
        group_names=("Ada", "Zoë"),
        class_names=("Ada", "Ida", "Zoë"),
    )
    outputs = np.eye(3)[[0, 1, 2, 2]]
    recall = make(f"recall:{written}", CLASSES, named)
    assert recall.weights(named) @ recall.score(outputs, named) == 1.0
    group = make(f"group_accuracy:{written}", CLASSES, named)
    assert group.weights(named) @ group.score(outputs, named) == 0.5


def test_a_group_of_a_column_of_numbers_is_found_by_the_number():
    years = Annotations(
        labels=LABELS,
        groups=np.array([0, 1, 0, 1]),
        group_names=("1", "2"),
        class_names=NAMED.class_names,
    )
    codes = Annotations(
        labels=LABELS,
        groups=np.array([0, 1, 0, 1]),
        group_names=("1.0", "01"),
        class_names=NAMED.class_names,
    )
    outputs = np.eye(3)[[0, 2, 2, 2]]
    for about, name in ((years, "1.0"), (codes, "1"), (codes, "1.0")):
        metric = make(f"group_accuracy:{name}", CLASSES, about)
        assert metric.weights(about) @ metric.score(outputs, about) == 1.0
    both = Annotations(
        labels=LABELS,
        groups=np.array([0, 1, 0, 1]),
        group_names=("1", "1.0"),
        class_names=NAMED.class_names,
    )
    metric = make("group_accuracy:1.0", CLASSES, both)
    assert metric.weights(both) @ metric.score(outputs, both) == 0.0
    with pytest.raises(SettingsError, match="no group '1e0'"):
        make("group_accuracy:1e0", CLASSES, years)
