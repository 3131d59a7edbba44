"""A scoring's values for some of its images are those of a scoring of these alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import repairkit
from repairkit.core.errors import DataError
from repairkit.data.parts import PartPlan
from repairkit.jobs.score.scored import Scored
from tests.conftest import Project

METRICS = ("group_loss", "loss", "group_accuracy:b", "group_accuracy")


def scored(
    project: Project, *, method: str, keep: np.ndarray | None = None, rows: int | None = None
) -> Scored:
    """All images select, absent filters yield zero, so that calibration plays no part."""
    data = project.data
    if keep is not None:
        stored = dict(np.load(project.data))
        data = project.folder / "some.npz"
        np.savez(data, **{name: column[keep] for name, column in stored.items()})
    settings = repairkit.Settings(
        groups=("group",),
        absent="zero",
        parts=PartPlan(calibration="all", selection="all", test="all"),
    )
    return repairkit.score(
        project.model, data, metric=METRICS, method=method, settings=settings, max_evaluations=rows
    )


def test_leave_one_out_on_some_images_is_that_of_a_suite_of_them(project: Project) -> None:
    keep = np.flatnonzero(np.arange(120) % 7 < 4)
    found = scored(project, method="leave-one-out").on(keep)
    alone = scored(project, method="leave-one-out", keep=keep).scores
    assert found is not None
    assert found.metrics == METRICS
    np.testing.assert_allclose(found.values, alone.values, atol=1e-6)
    np.testing.assert_allclose(found.std_errors, alone.std_errors, rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(found.decided, alone.decided)


def test_values_of_repair_on_half_of_the_images_are_about_that_half(project: Project) -> None:
    whole = scored(project, method="repair", rows=6_000)
    half = np.arange(0, 120, 2)
    found = whole.on(half)
    alone = scored(project, method="repair", keep=half, rows=6_000).scores
    assert found is not None
    gap = abs(found.values - alone.values)
    assert (gap <= 5 * np.hypot(found.std_errors, alone.std_errors)).all()
    assert 0 < found.samples.sum() < whole.scores.samples.sum()


@pytest.mark.parametrize("method", ["weight-norm", "activation-norm", "random"])
def test_what_looks_at_no_image_is_the_same_on_any(project: Project, method: str) -> None:
    whole = scored(project, method=method)
    found = whole.on(np.arange(30))
    assert found is not None
    np.testing.assert_array_equal(found.values, whole.scores.values)


def test_a_figure_of_images_together_cannot_be_cut(project: Project) -> None:
    settings = repairkit.Settings(groups=("group",))
    whole = repairkit.score(
        project.model,
        project.data,
        metric="worst_group_accuracy",
        method="leave-one-out",
        settings=settings,
    )
    assert whole.on(np.arange(10)) is None


def test_images_without_a_group_that_a_metric_needs_are_refused(project: Project) -> None:
    whole = scored(project, method="leave-one-out")
    only_a = np.flatnonzero(np.load(project.data)["group"] == "a")
    with pytest.raises(DataError, match="group"):
        whole.on(only_a)


def test_a_finished_run_that_is_resumed_still_knows_its_images(
    project: Project, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    first = repairkit.score(project.model, project.data, method="leave-one-out", out=out)
    some = np.arange(0, 40, 3)
    before = first.on(some)
    again = repairkit.score(
        project.model, project.data, method="leave-one-out", out=out, resume=True
    ).on(some)
    assert before is not None
    assert again is not None
    np.testing.assert_array_equal(before.values, again.values)
