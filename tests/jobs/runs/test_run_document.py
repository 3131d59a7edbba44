"""What a setting affects is said once, and whoever asks for it gets the same answer."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repairkit.data.parts import PartPlan
from repairkit.data.preprocessing import Preprocessing
from repairkit.formats.effects import Affects, affecting, recorded, settings_of
from repairkit.formats.run_file import RunFolder, RunSettings
from repairkit.jobs.runs.run_document import differing, restored, settings_in, told_settings
from repairkit.jobs.score.score_settings import ScoreSettings
from repairkit.jobs.setup.workbench import Settings
from tests.conftest import Answer, Project

Command = Callable[..., Answer]
OF_METHOD = {"method", "estimator", "budget"}


@pytest.mark.parametrize("kind", [Settings, ScoreSettings])
def test_every_setting_says_what_it_affects(kind: type) -> None:
    assert list(settings_of(kind)) == [field.name for field in dataclasses.fields(kind)]


def test_a_run_records_each_setting_that_affects_its_values_or_its_ranking() -> None:
    assert set(RunSettings.__annotations__) == {*recorded(Settings), *OF_METHOD}
    given = Settings(
        data=Path("d"), image_input="x", inputs={"y": "1"}, label="z", corruptions=("contrast",)
    )
    assert set(told_settings(given)) == set(recorded(Settings))
    assert set(told_settings(Settings())) == set(recorded(Settings)) - {
        "corruptions", "image_input", "inputs", "label",
    }  # fmt: skip
    apart = set(affecting(Settings, Affects.SPEED, Affects.PLACE)) | {"data", "means"}
    assert {field.name for field in dataclasses.fields(Settings)} - set(recorded(Settings)) == apart


@pytest.fixture
def run(repairkit: Command, project: Project) -> Path:
    arguments = ("--method", "exact", "--quiet", "-o", "run")
    assert repairkit("score", project.model, *arguments).code == 0
    return Path("run")


OTHER: dict[str, Any] = {
    "groups": ["camera"],
    "class_names": ["a", "b"],
    "features": ["x"],
    "preprocessing": {"scale": 0.5},
    "parts": {"test": 0.25},
    "output": "other",
    "columns": [0, 1],
    "threshold": 0.5,
    "outputs_are": "logits",
    "sites_at": "activation",
    "include": ["dense"],
    "absent": "zero",
    "seed": 7,
    "image_input": "image",
    "label": "kind",
    "inputs": {"x": "1"},
    "corruptions": ["contrast"],
}
"""Another value for every setting that affects values."""


@pytest.mark.parametrize("name", OTHER)
def test_compare_tells_of_every_setting_that_affects_values(
    repairkit: Command, run: Path, name: str
) -> None:
    shutil.copytree(run, "other")
    document = json.loads((run / "run.json").read_text())
    document["settings"][name] = OTHER[name]
    (Path("other") / "run.json").write_text(json.dumps(document))
    answer = repairkit("compare", run, "other", "--json")
    assert answer.code == 0, answer.err
    (pair,) = json.loads(answer.out)["comparisons"]
    assert any(note.startswith(f"{name} differs") for note in pair["notes"]), pair["notes"]


def test_no_setting_that_affects_values_is_left_untried() -> None:
    values = affecting(Settings, Affects.FILTERS, Affects.FIGURE, Affects.IMAGES)
    assert set(OTHER) == set(values) - {"data", "means"}


def test_a_setting_that_was_not_recorded_yet_had_its_usual_value(run: Path) -> None:
    now = RunFolder(run).read()
    earlier = RunFolder(run).read()
    for name in ("features", "columns", "threshold", "outputs_are", "tf32", "half"):
        del earlier["settings"][name]  # type: ignore[misc]  # as an earlier version wrote it
    assert differing(settings_in(now), settings_in(earlier), *Affects) == []


def test_the_settings_of_a_run_come_back_as_they_were(repairkit: Command, project: Project) -> None:
    given = Settings(
        data=project.data,
        metrics=("accuracy", "loss"),
        groups=("group",),
        preprocessing=Preprocessing(scale=0.5),
        parts=PartPlan(test=0.25),
        columns=(0, 3),
        seed=3,
    )
    options = ("--metric", "accuracy", "--metric", "loss", "--scale", "0.5", "--test", "0.25")
    options += ("--columns", "0:3", "--seed", "3", "--method", "exact", "--quiet", "-o", "run")
    answer = repairkit("score", project.model, *options)
    assert answer.code == 0, answer.err
    back = restored(RunFolder(Path("run")).read(), data=project.data, means=None)
    assert {**told_settings(back), "parts": None} == {**told_settings(given), "parts": None}
    assert back.parts == PartPlan(test="0.25")


@pytest.fixture
def common(repairkit: Command, project: Project) -> Path:
    """A run that was scored at common means, which are not those of the calibration part."""
    brighter = project.folder / "brighter.npz"
    stored = dict(np.load(project.data))
    np.savez(brighter, **{**stored, "x": 4 * stored["x"] + 2})
    given = ("--data", brighter, "-o", "means.json", "--quiet")
    assert repairkit("means", project.model, *given).code == 0
    arguments = ("--means", "means.json", "--method", "exact", "--no-curve", "--quiet")
    answer = repairkit("score", project.model, *arguments, "-o", "common")
    assert answer.code == 0, answer.err
    return Path("common")


def test_values_at_other_means_choose_no_patch(
    repairkit: Command, project: Project, common: Path
) -> None:
    answer = repairkit("patch", project.model, "--scores", common, "-o", "out.onnx")
    digest = RunFolder(common).read()["means"][:12]
    assert answer.code == 1
    assert answer.err.count("\n") == 1
    assert f"{common}: was scored with means 'common means {digest}'" in answer.err
    assert "and this job has 'means of the calibration part'" in answer.err
    assert "score without --means" in answer.err
    assert not Path("out.onnx").exists()


def test_compare_tells_of_other_means(repairkit: Command, run: Path, common: Path) -> None:
    answer = repairkit("compare", run, common, "--json")
    assert answer.code == 0, answer.err
    digest = RunFolder(common).read()["means"][:12]
    note = f"means differs: 'means of the calibration part' and 'common means {digest}'"
    (pair,) = json.loads(answer.out)["comparisons"]
    assert note in pair["notes"]
    answer = repairkit("compare", common, common, "--json")
    assert json.loads(answer.out)["comparisons"][0]["notes"] == []


def removal(page: Path) -> Any:
    return json.loads(page.with_suffix(".json").read_text())["removal"]


def test_a_report_is_played_at_the_levels_of_its_run(
    repairkit: Command, run: Path, common: Path
) -> None:
    shutil.copy("means.json", "kept.json")
    assert repairkit("report", common).code == 0
    played = removal(common / "report.html")
    # The same ranking at the means of the calibration part: what was played before.
    document = json.loads((common / "run.json").read_text())
    shutil.copytree(common, "own")
    del document["means"]
    (Path("own") / "run.json").write_text(json.dumps(document))
    assert repairkit("report", "own").code == 0
    assert removal(Path("own/report.html")) != played
    # The file may move, be lost, or hold other means by now.
    Path("means.json").unlink()
    answer = repairkit("report", common)
    assert answer.code == 1
    assert "means.json is no file; name the file with --means" in answer.err
    assert repairkit("report", common, "--means", "kept.json").code == 0
    assert removal(common / "report.html") == played
    assert repairkit("report", common, "--no-pictures").code == 0
    answer = repairkit("report", run, "--means", "kept.json")
    assert answer.code == 1
    assert "leave --means out" in answer.err


def test_a_report_refuses_means_that_its_run_did_not_have(
    repairkit: Command, project: Project, common: Path
) -> None:
    assert repairkit("means", project.model, "-o", "whole.json", "--quiet").code == 0
    answer = repairkit("report", common, "--means", "whole.json")
    assert answer.code == 1
    assert "whole.json: holds other means" in answer.err
    assert not (common / "report.html").exists()
