"""What `inspect` says of the time that a pass takes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto

from repairkit.jobs.look.inspection import PASSES_PER_FILTER, PassTime, inspect, time_passes
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Settings
from tests import models
from tests.conftest import Answer

Command = Callable[..., Answer]


def timed(model: ModelProto, folder: Path) -> PassTime:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return inspect(read_subject(path), Settings()).passes


@pytest.mark.parametrize(
    ("make", "batch"), [(models.normalised, 8), (models.fixed_batch, 1), (models.stuck_batch, 1)]
)
def test_a_pass_is_timed_in_the_batch_that_the_model_takes(
    make: Callable[[], ModelProto], batch: int, tmp_path: Path
) -> None:
    found = timed(make(), tmp_path)
    assert found.seconds is not None
    assert 0 < found.seconds < 1
    assert found.batch == batch
    assert found.shape == (2, 6, 6)


def test_figures_follow_the_number_of_filters() -> None:
    found = PassTime(0.25, 1, (3, 8, 8), 40)
    assert found.to_json()["per_filter"] == {"10": 100.0, "150": 1500.0, "500": 5000.0}
    assert tuple(map(int, found.to_json()["per_filter"])) == PASSES_PER_FILTER


def test_a_slow_model_is_run_once_and_soon_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(models.normalised(), path)
    subject = read_subject(path)
    time_passes(subject, 4)  # so that all is imported
    runs = []

    def slow(*given: object) -> None:
        runs.append(given)
        end = time.thread_time() + 0.3
        while time.thread_time() < end:
            pass

    monkeypatch.setattr("repairkit.jobs.look.inspection.MEASURING_SECONDS", 0.5)
    monkeypatch.setattr("repairkit.engine.runner.Runner.run", slow)
    found = time_passes(subject, 4)
    assert found.seconds == pytest.approx(0.3, abs=0.1)
    assert found.batch == 1
    assert len(runs) <= 2


def test_a_model_that_cannot_run_says_why(repairkit: Command, tmp_path: Path) -> None:
    model = models.normalised()
    node = next(n for n in model.graph.node if n.op_type == "Conv")
    del model.graph.value_info[:]
    node.domain = "nobody.knows"
    model.opset_import.append(onnx.helper.make_opsetid("nobody.knows", 1))
    onnx.save(model, tmp_path / "model.onnx")
    answer = repairkit("inspect", tmp_path / "model.onnx", "--json")
    assert answer.code == 0, answer.err
    passes = json.loads(answer.out)["passes"]
    assert passes["seconds"] is None
    assert set(passes["per_filter"].values()) == {None}
    assert "a pass cannot be timed" in passes["note"]


def test_people_read_units(repairkit: Command, tmp_path: Path) -> None:
    onnx.save(models.normalised(), tmp_path / "model.onnx")
    out = repairkit("inspect", tmp_path / "model.onnx").out
    assert "one pass (an image of 2 x 6 x 6, 8 at a time, one core): " in out
    assert "passes for each of the " in out
