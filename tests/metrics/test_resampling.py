"""Figures to choose by: of any subset what the metric is of it, or the smooth form of that."""

from __future__ import annotations

import numpy as np
import pytest

from repairkit.core.outputs import OutputForm
from repairkit.core.suite import Annotations
from repairkit.metrics.catalogue import make_metric
from repairkit.metrics.resampling import FigureOfImages, figure_of, smooth_figure

FORM = OutputForm("logits")
RNG = np.random.default_rng(0)
N, K = 60, 3
ANNOTATIONS = Annotations(
    labels=RNG.integers(0, K, N), groups=np.arange(N) % 2, group_names=("even", "odd")
)
OUTPUTS = 2 * RNG.standard_normal((N, K))


def metric(name: str):
    return make_metric(name, form=FORM, annotations=ANNOTATIONS, n_classes=K)


@pytest.mark.parametrize(
    "name",
    ["accuracy", "loss", "recall:1", "group_accuracy", "group_loss", "group_accuracy:odd",
     "group_loss:odd", "worst_group_accuracy", "equalized_odds_difference"],
)  # fmt: skip
def test_a_metric_of_a_subset_is_the_metric_of_those_images(name: str) -> None:
    subset = np.sort(RNG.permutation(N)[: N // 2])
    about, outputs = ANNOTATIONS.take(subset), OUTPUTS[subset]
    found = metric(name)
    expected = found.score(outputs, about)
    if found.per_image:
        # Weights are those of the whole, rescaled.
        weights = found.weights(ANNOTATIONS)[subset]
        expected = expected @ (weights / weights.sum())
    figure = figure_of(found, ANNOTATIONS)
    assert figure.figure(figure.columns(OUTPUTS), subset) == pytest.approx(float(expected))


@pytest.mark.parametrize(
    ("name", "smooth"),
    [("accuracy", "loss"), ("group_accuracy", "group_loss"), ("loss", "loss"),
     ("group_accuracy:odd", "group_loss:odd")],
)  # fmt: skip
def test_shares_become_likelihoods_of_the_same_images(name: str, smooth: str) -> None:
    """As good where the metric itself is: a share becomes a log-likelihood, the loss's opposite."""
    turn = metric(name).measure.sign * metric(smooth).measure.sign
    everyone = np.arange(N)
    found = smooth_figure(metric(name), ANNOTATIONS)
    expected = figure_of(metric(smooth), ANNOTATIONS)
    assert found.figure(found.columns(OUTPUTS), everyone) == pytest.approx(
        turn * expected.figure(expected.columns(OUTPUTS), everyone)
    )


def test_the_worst_group_becomes_a_soft_minimum_of_the_groups_likelihoods() -> None:
    everyone = np.arange(N)
    found = smooth_figure(metric("worst_group_accuracy"), ANNOTATIONS)
    groups = [figure_of(metric(f"group_loss:{name}"), ANNOTATIONS) for name in ("even", "odd")]
    figures = np.array([-g.figure(g.columns(OUTPUTS), everyone) for g in groups])
    columns = found.columns(OUTPUTS)
    soft = found.figure(columns, everyone)
    assert soft == pytest.approx(-np.log(np.exp(-8 * figures).mean()) / 8)
    assert figures.min() <= soft <= figures.mean()
    odd = np.flatnonzero(ANNOTATIONS.groups == 1)
    assert found.figure(columns, odd) == pytest.approx(
        -groups[1].figure(groups[1].columns(OUTPUTS), odd)
    )


def test_the_soft_minimum_of_groups_far_apart_is_that_of_the_worst_but_for_a_constant() -> None:
    labels, groups = np.zeros(4, np.int64), np.array([0, 0, 1, 1])
    annotations = Annotations(labels=labels, groups=groups, group_names=("a", "b"))
    figure = FigureOfImages(annotations, lambda o, _: o, np.full(4, 0.25), groups)
    far = [figure.figure(np.array([0, 0, w, w]), np.arange(4)) for w in (-20.0, -21.0, -300.0)]
    assert far[0] - far[1] == pytest.approx(1.0)
    assert far[2] == pytest.approx(-300 + np.log(2) / 8)
