"""Metrics of some images and of all others, from their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from repairkit.core.errors import DataError, SettingsError
from repairkit.core.outputs import LOG_FLOOR, OutputForm
from repairkit.core.suite import Annotations
from repairkit.jobs.repair.objective import Objective
from repairkit.metrics.catalogue import make_metric
from repairkit.metrics.resampling import smooth_figure
from tests.metrics.cases import one_hot

FORM = OutputForm("logits")
CLASS = st.integers(0, 2)
ROWS = st.lists(st.tuples(CLASS, CLASS, st.booleans()), min_size=1, max_size=20)


def marked(labels: list[int], marks: list[bool]) -> Annotations:
    return Annotations(
        labels=np.array(labels),
        class_names=("cat", "dog", "fox"),
        attributes={"to_fix": np.array(marks).astype(np.int64)},
    )


def figure(name: str, outputs: NDArray[np.float64], about: Annotations) -> float:
    metric = make_metric(name, form=FORM, annotations=about, n_classes=3)
    scores, weights = metric.score(outputs, about), metric.weights(about)
    low, high = metric.score_range
    assert ((scores >= low) & (scores <= high)).all()
    assert weights.sum() == pytest.approx(1)
    return float(scores @ weights)


@given(rows=ROWS)
def test_accuracy_to_fix_and_elsewhere_are_shares_of_their_own_images(
    rows: list[tuple[int, int, bool]],
) -> None:
    rows = [(0, 0, True), (1, 2, False), *rows]
    labels, said, marks = (list(column) for column in zip(*rows, strict=True))
    about, outputs = marked(labels, marks), 9.0 * one_hot(np.array(said), 3)
    wanted = [s == y for y, s, m in rows if m]
    others = [s == y for y, s, m in rows if not m]
    assert figure("accuracy_to_fix", outputs, about) == pytest.approx(np.mean(wanted))
    assert figure("accuracy_elsewhere", outputs, about) == pytest.approx(np.mean(others))
    both = figure("accuracy", outputs, about) * len(rows)
    assert both == pytest.approx(sum(wanted) + sum(others))


@given(rows=ROWS, number=CLASS)
def test_recall_left_is_recall_and_what_is_beside_it_is_of_the_other_classes(
    rows: list[tuple[int, int, bool]], number: int
) -> None:
    rows = [(0, 0, True), (1, 2, False), (2, 2, False), *rows]
    labels, said, marks = (list(column) for column in zip(*rows, strict=True))
    about, outputs = marked(labels, marks), 9.0 * one_hot(np.array(said), 3)
    name = about.class_name(number)
    recall = figure(f"recall:{name}", outputs, about)
    assert figure(f"recall_left:{name}", outputs, about) == recall
    others = np.mean([s == y for y, s, _ in rows if y != number])
    assert figure(f"accuracy_of_others:{name}", outputs, about) == pytest.approx(others)


@given(scores=st.lists(st.floats(-30, 30), min_size=3, max_size=3), number=CLASS)
def test_the_loss_of_forgetting_is_how_surely_a_class_is_recognised(
    scores: list[float], number: int
) -> None:
    about = marked([number], [True])
    outputs = np.array([scores])
    others = [s for place, s in enumerate(scores) if place != number]
    top = max(scores)
    share = sum(math.exp(s - top) for s in others) / sum(math.exp(s - top) for s in scores)
    expected = min(-math.log(share) if share > 0 else math.inf, -LOG_FLOOR)
    found = figure(f"forgetting_loss:{number}", outputs, about)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)
    metric = make_metric(f"recall_left:{number}", form=FORM, annotations=about, n_classes=3)
    smooth = smooth_figure(metric, about)
    assert smooth.figure(smooth.columns(outputs), np.arange(1)) == pytest.approx(found)


@given(scores=st.lists(st.floats(-5, 5), min_size=3, max_size=3), step=st.floats(0.1, 5))
def test_a_class_that_scores_less_is_less_recognised(scores: list[float], step: float) -> None:
    about = marked([0], [True])
    less = [scores[0] - step, *scores[1:]]
    before, after = (figure("forgetting_loss:0", np.array([s]), about) for s in (scores, less))
    assert after < before


def test_an_objective_knows_what_stands_beside_it() -> None:
    fixing, forgetting = Objective.of("accuracy_to_fix"), Objective.of("recall_left:cat")
    assert (fixing.sign, fixing.beside, fixing.gives_up) == (1, "accuracy_elsewhere", False)
    assert fixing.values == ("loss_to_fix", "loss_elsewhere")
    assert (forgetting.sign, forgetting.beside) == (-1, "accuracy_of_others:cat")
    assert forgetting.gives_up
    assert forgetting.values == ("forgetting_loss:cat", "loss_of_others:cat")
    assert Objective.of("accuracy").beside == ""


def test_what_is_missing_is_told() -> None:
    plain = Annotations(labels=np.array([0, 1]))
    with pytest.raises(SettingsError, match=r"no column to_fix .*--fix"):
        make_metric("accuracy_to_fix", form=FORM, annotations=plain, n_classes=3)
    about = marked([0, 0], [False, False])
    for name, missing in (
        ("accuracy_to_fix", "none of the 2 images is to be fixed"),
        ("accuracy_of_others:cat", "of a class other than 'cat'"),
    ):
        metric = make_metric(name, form=FORM, annotations=about, n_classes=3)
        with pytest.raises(DataError, match=missing):
            metric.weights(about)
