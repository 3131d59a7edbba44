"""A scoring by rows of many filters borrows from soft hits; others, and older runs, do not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import repairkit
from repairkit.data.parts import PartPlan
from repairkit.jobs.score.scored import Scored
from tests.models import head, images, model_of

N_FILTERS, N_IMAGES = 70, 150
FIELDS = ("values", "std_errors", "ci_low", "ci_high", "samples", "decided")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 70 filters, and images of which it answers nine in ten as they are labelled."""
    folder, rng = tmp_path_factory.mktemp("wide"), np.random.default_rng(0)
    weights = {"w": rng.standard_normal((N_FILTERS, 2, 3, 3)).astype(np.float32)}
    conv = helper.make_node("Conv", ["image", "w"], ["y"], "conv")
    nodes = [conv, *head("y", weights, N_FILTERS)]
    onnx.save(model_of(nodes, weights), folder / "model.onnx")
    x = images(N_IMAGES, seed=3)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    answers = session.run(None, {"image": x})[0].argmax(axis=1)
    y = np.where(rng.random(N_IMAGES) < 0.1, rng.integers(0, 3, N_IMAGES), answers)
    np.savez(folder / "data.npz", x=x, y=y)
    return folder


def scored(wide: Path, out: Path | None, **more: object) -> Scored:
    options: dict[str, object] = {"method": "regression", "max_evaluations": 3_000} | more
    return repairkit.score(
        wide / "model.onnx",
        settings=repairkit.Settings(
            data=wide / "data.npz",
            parts=PartPlan(calibration="all", selection="all", test="none"),
        ),
        out=out,
        keep_rows=out is not None,
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("method", ["regression", "auto"])
def test_the_run_says_that_it_borrows_and_shows_the_metrics_asked_for_alone(
    wide: Path, tmp_path: Path, method: str
) -> None:
    metrics = ("accuracy", "loss", "recall:1")
    run = scored(wide, tmp_path / "run", metric=metrics, method=method)
    assert run.document["auxiliary"] == ["accuracy (soft)", "recall:1 (soft)"]
    assert "soft hits" in run.scores.interval
    assert run.scores.metrics == metrics
    assert list(run.document["metrics"]) == list(metrics)
    assert "soft" not in (tmp_path / "run" / "scores.csv").read_text().splitlines()[0]


def test_the_runs_own_question_has_the_runs_own_answer_and_another_one_borrows(
    wide: Path, tmp_path: Path
) -> None:
    run = scored(wide, tmp_path / "run", metric="accuracy")
    asked = repairkit.ask(tmp_path / "run")
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(asked.scores, name), getattr(run.scores, name), name)
    other = repairkit.ask(tmp_path / "run", metric="recall:0")
    assert "soft hits" in other.scores.interval
    part = repairkit.ask(tmp_path / "run", where="label == '1'")
    assert "soft hits" in part.scores.interval


def test_a_loss_borrows_nothing(wide: Path) -> None:
    run = scored(wide, None, metric="loss")
    assert run.document["auxiliary"] == []
    assert "soft hits" not in run.scores.interval


@pytest.mark.parametrize("method", ["tmab", "permutation"])
def test_methods_without_rows_do_not_ask_for_soft_hits(wide: Path, method: str) -> None:
    run = scored(wide, None, method=method, max_evaluations=300)
    assert "auxiliary" not in run.document


def test_a_run_that_was_begun_without_goes_on_without(wide: Path, tmp_path: Path) -> None:
    whole = scored(wide, tmp_path / "run", metric="accuracy")
    place = tmp_path / "run" / "run.json"
    before = json.loads(place.read_text())
    resumed = scored(wide, tmp_path / "run", metric="accuracy", resume=True)
    np.testing.assert_array_equal(resumed.scores.values, whole.scores.values)
    del before["auxiliary"]
    before["finished"] = False
    place.write_text(json.dumps(before))
    (tmp_path / "run" / "checkpoint").unlink()
    old = scored(wide, tmp_path / "run", metric="accuracy", resume=True)
    assert "auxiliary" not in old.document
    assert "soft hits" not in old.scores.interval
