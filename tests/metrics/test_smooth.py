"""Figures to choose by: of any subset what the metric is of it, or the smooth form of that."""

from __future__ import annotations

import numpy as np
import pytest

from repairkit.core.measures import sign_of
from repairkit.core.suite import Annotations
from repairkit.metrics import OutputForm, figure_of, make_metric, smooth_figure

FORM = OutputForm("logits")
RNG = np.random.default_rng(0)
N, K = 60, 3
ANNOTATIONS = Annotations(RNG.integers(0, K, N), np.arange(N) % 2, ("even", "odd"))
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
    turn = sign_of(metric(name)) * sign_of(metric(smooth))
    everyone = np.arange(N)
    found = smooth_figure(metric(name), ANNOTATIONS, FORM)
    expected = figure_of(metric(smooth), ANNOTATIONS)
    assert found.figure(found.columns(OUTPUTS), everyone) == pytest.approx(
        turn * expected.figure(expected.columns(OUTPUTS), everyone)
    )


def test_the_worst_group_becomes_the_group_of_the_least_likelihood() -> None:
    everyone = np.arange(N)
    found = smooth_figure(metric("worst_group_accuracy"), ANNOTATIONS, FORM)
    groups = [figure_of(metric(f"group_loss:{name}"), ANNOTATIONS) for name in ("even", "odd")]
    least = -max(g.figure(g.columns(OUTPUTS), everyone) for g in groups)
    columns = found.columns(OUTPUTS)
    assert found.figure(columns, everyone) == pytest.approx(least)
    odd = np.flatnonzero(ANNOTATIONS.groups == 1)
    alone = groups[1].figure(groups[1].columns(OUTPUTS), odd)
    assert found.figure(columns, odd) == pytest.approx(-alone)
