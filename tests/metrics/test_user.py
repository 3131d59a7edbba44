from __future__ import annotations

import numpy as np
import pytest

from repairkit.core.errors import DataError, SettingsError
from repairkit.core.suite import Annotations
from repairkit.metrics.catalogue import make_metric

MODULE = """
import numpy as np
from repairkit.core.errors import DataError

number = 3

def nearest(outputs, labels, attributes):
    return np.exp(-np.abs(outputs[:, 0, 0] - labels))

def together(outputs, labels, attributes):
    return -float(np.mean(attributes["age"]))
together.score_range = (-100, 0)

def column(outputs, labels, attributes):
    return np.zeros((len(labels), 1))

def first(outputs, labels, attributes):
    return outputs[:1, 0, 0]

def raw(outputs, labels, attributes):
    return outputs[:, 0, 0]

def bounded(outputs, labels, attributes):
    return outputs[:, 0, 0]
bounded.score_range = (0, 1)

def not_a_number(outputs, labels, attributes):
    return float("nan")

def words(outputs, labels, attributes):
    return "good"

def failing(outputs, labels, attributes):
    return outputs["x"]

def refusing(outputs, labels, attributes):
    raise DataError("no ages here; add a column age")

def moody(outputs, labels, attributes):
    return np.zeros(len(labels)) if len(labels) == 4 else 0.0

def ranged(outputs, labels, attributes):
    return 0.0
ranged.score_range = (1, 0)

def strange(outputs, labels, attributes):
    return 0.0
strange.score_range = "all"
"""
ANNOTATIONS = Annotations(
    labels=np.array([0, 1, 0, 1, 1]), attributes={"age": np.array([10.0, 20.0, 30.0, 40.0, 50.0])}
)
SAMPLE = np.linspace(0, 1, 4).reshape(4, 1, 1) * np.ones((4, 7, 2))


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "judge.py").write_text(MODULE)
    (tmp_path / "crooked.py").write_text("import no_such_thing\n")
    monkeypatch.syspath_prepend(tmp_path)


def make(name: str, sample=SAMPLE):
    return make_metric(name, form=None, annotations=ANNOTATIONS, n_classes=0, sample=sample)


def test_a_function_may_give_one_number_per_image():
    metric = make("judge:nearest")
    assert metric.name == "judge:nearest"
    assert metric.per_image
    assert metric.score_range == (-np.inf, np.inf)
    some = ANNOTATIONS.take(np.arange(4))
    expected = np.exp(-np.abs(SAMPLE[:, 0, 0] - some.labels))
    np.testing.assert_allclose(metric.score(SAMPLE, some), expected)
    np.testing.assert_allclose(metric.weights(some), np.full(4, 0.25))


def test_a_function_may_give_one_number_for_the_images_together():
    metric = make("judge:together")
    assert not metric.per_image
    assert metric.score_range == (-100.0, 0.0)
    score = metric.score(SAMPLE, ANNOTATIONS.take(np.array([0, 1, 2, 4])))
    assert score.shape == ()
    assert score == pytest.approx(-27.5)


@pytest.mark.parametrize(("name", "per_image"), [("nearest", True), ("together", False)])
def test_one_sample_image_tells_the_two_apart(name, per_image):
    assert make(f"judge:{name}", SAMPLE[:1]).per_image is per_image


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere_at_all:f", "'nowhere_at_all' of metric .*ModuleNotFoundError.*run where nowhere"),
        ("class_recall:cat", "no module are in `repairkit list metrics`"),
        ("crooked:f", "'crooked'.*No module named 'no_such_thing'"),
        (".judge:f", "incomplete; write module:function"),
        (":f", "incomplete; write module:function"),
        ("judge:", "incomplete; write module:function"),
        ("judge:neerest", "has no function 'neerest'; check the name"),
        ("judge:number", "holds, but not as a function, 'number'"),
        ("judge:column", r"gave shape \(4, 1\) for 4 images; return one number, or"),
        ("judge:first", r"gave shape \(1,\) for 4 images"),
        ("judge:not_a_number", "gave nan for finite outputs"),
        ("judge:words", "failed on 4 images.*ValueError"),
        ("judge:failing", r"failed on 4 images with outputs of shape \(4, 7, 2\): IndexError"),
        ("judge:ranged", r"score_range of metric judge:ranged is \(1, 0\)"),
        ("judge:strange", "score_range of metric judge:strange is 'all'"),
    ],
)
def test_a_function_that_cannot_be_used_is_refused_in_one_line(name, message):
    with pytest.raises(SettingsError, match=message):
        make(name)


def test_numbers_beyond_the_range_are_refused():
    with pytest.raises(
        SettingsError, match=r"from 0 to 10 .*set bounded.score_range = \(low, high\)"
    ):
        make("judge:bounded", SAMPLE * 10)


def test_a_function_is_tried_on_outputs():
    for sample in (None, SAMPLE[:0]):
        with pytest.raises(SettingsError, match="pass `sample`"):
            make("judge:nearest", sample)


def test_a_function_must_give_the_same_shape_always():
    metric = make("judge:moody")
    with pytest.raises(SettingsError, match=r"gave shape \(\) and \(3,\) was expected"):
        metric.score(SAMPLE[:3], ANNOTATIONS.take(np.arange(3)))


@pytest.mark.parametrize("name", ["judge:raw", "judge:bounded"])
def test_a_broken_model_gets_the_least_score(name):
    metric = make(name)
    broken = np.full((4, 7, 2), np.nan)
    np.testing.assert_array_equal(metric.score(broken, ANNOTATIONS.take(np.arange(4))), np.zeros(4))


def test_any_finite_number_will_do_where_no_range_was_given():
    metric = make("judge:raw", SAMPLE * 10)
    np.testing.assert_array_equal(
        metric.score(SAMPLE * -1e6, ANNOTATIONS.take(np.arange(4))), SAMPLE[:, 0, 0] * -1e6
    )
    broken = np.full((4, 7, 2), np.inf)
    with pytest.raises(SettingsError, match=r"gave inf .*set raw.score_range"):
        metric.score(broken, ANNOTATIONS.take(np.arange(4)))


def test_what_a_function_says_on_purpose_is_passed_on():
    with pytest.raises(DataError, match="no ages here"):
        make("judge:refusing")
