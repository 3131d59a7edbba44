"""Data, metrics and estimators that are given in Python do what their files and names do."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import repairkit
from repairkit.api import copy_sample
from repairkit.api.job_settings import metric_names
from repairkit.core.errors import DataError, RepairkitError, RunFolderError, SettingsError
from repairkit.core.game import GameFacts, Outcomes, Round
from repairkit.core.scores import Scores
from repairkit.data.given import GivenData, as_data
from repairkit.data.preprocessing import Preprocessing
from tests.conftest import Project

SETTINGS = repairkit.Settings(groups=("group",), workers=2)


def share_right(outputs: Any, labels: Any, attributes: Any) -> Any:
    """One number per image; of group `b` a hit counts twice."""
    return (outputs.argmax(1) == labels) * np.where(attributes["group"] == "b", 1.0, 0.5)


def scored(project: Project, data: Any, folder: Path, **more: Any) -> str:
    """The values that a scoring writes."""
    given = {"settings": SETTINGS, "method": "exact", "curve": False} | more
    repairkit.score(project.model, data, out=folder, **given)
    return (folder / "scores.csv").read_text()


def run_of(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return document


def stored(project: Project) -> dict[str, Any]:
    with np.load(project.data) as arrays:
        return dict(arrays)


def test_arrays_give_the_values_and_the_digest_of_their_file(
    project: Project, tmp_path: Path
) -> None:
    arrays = stored(project)
    x, y, group = (arrays[name] for name in ("x", "y", "group"))
    expected = scored(project, project.data, tmp_path / "file")
    for name, data in {
        "mapping": arrays,
        "tuple": (x, y, {"group": group}),
        "lists": (x.tolist(), y.tolist(), {"group": group.tolist()}),
        "column": (x, y, group),
    }.items():
        if name == "lists":
            data = (np.asarray(data[0], np.float32), *data[1:])
        assert scored(project, data, tmp_path / name) == expected
        run, other = run_of(tmp_path / name), run_of(tmp_path / "file")
        assert run["data"]["digest"] == other["data"]["digest"]
        assert run["key"] == other["key"]
        assert run["data"]["path"] == "arrays given in Python"
        assert "data" in run["again"]["lacks"]
        assert "--data" not in run["again"]["words"]


def test_given_groups_are_the_groups_unless_others_are_named(
    project: Project, tmp_path: Path
) -> None:
    arrays = stored(project)
    half = np.arange(len(arrays["y"])) % 2
    data = (arrays["x"], arrays["y"], {"group": arrays["group"], "half": half})
    plain = repairkit.Settings()
    result = repairkit.score(
        project.model, data, method="exact", metric="worst_group_accuracy", settings=plain
    )
    assert result.document["settings"]["groups"] == ["group", "half"]
    named = repairkit.score(project.model, data, method="exact", settings=SETTINGS)
    assert named.document["settings"]["groups"] == ["group"]
    assert tmp_path.exists()


def test_a_frame_gives_the_values_of_its_table(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    sample = Project(tmp_path, copy_sample(tmp_path / "sample"), tmp_path / "sample" / "digits.npz")
    arrays = {name: column[::40] for name, column in stored(sample).items()}
    rows = []
    for n, image in enumerate((15 * arrays["x"]).astype(np.uint8).reshape(-1, 8, 8)):
        Image.fromarray(image).save(tmp_path / f"{n}.png")
        rows.append({"path": str(tmp_path / f"{n}.png"), "label": int(arrays["y"][n]),
                     "group": str(arrays["polarity"][n]), "age": n / 4 if n else None})  # fmt: skip
    frame = pandas.DataFrame(rows)
    frame.to_csv(tmp_path / "images.csv", index=False)
    ready = replace(SETTINGS, preprocessing=Preprocessing(scale=1 / 240), accept_preprocessing=True)
    expected = scored(
        sample, tmp_path / "images.csv", tmp_path / "table", settings=ready, method="leave-one-out"
    )
    assert (
        scored(sample, frame, tmp_path / "frame", settings=ready, method="leave-one-out")
        == expected
    )
    assert run_of(tmp_path / "frame")["data"]["path"] == "a DataFrame given in Python"
    assert run_of(tmp_path / "frame")["parts"] == run_of(tmp_path / "table")["parts"]


def test_columns_of_a_frame_are_read_as_those_of_a_parquet_file(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    from repairkit.data.tables import read_parquet

    frame = pandas.DataFrame(
        {
            "path": ["a.png", "b.png", None],
            "whole": [1, 2, 3],
            "missing": [1.5, None, 2.0],
            "yes": [True, False, True],
            "code": ["007", "8", "9"],
            "kind": pandas.Categorical(["x", "y", "x"]),
            "nullable": pandas.array([1, None, 3], dtype="Int64"),
            "day": pandas.to_datetime(["2020-01-01", "2020-01-02", None]),
        }
    )
    frame.to_parquet(tmp_path / "a.parquet")
    expected, given = read_parquet(tmp_path / "a.parquet"), as_data(frame)
    assert isinstance(given, GivenData)
    assert given.table is not None
    assert list(given.table.columns) == list(expected.columns)
    for name, column in expected.columns.items():
        np.testing.assert_array_equal(given.table.columns[name], column, err_msg=name)
        assert given.table.columns[name].dtype == column.dtype, name


def test_a_run_on_arrays_goes_on_and_is_reported_with_the_same_arrays(
    project: Project, tmp_path: Path
) -> None:
    arrays = stored(project)
    expected = scored(project, arrays, tmp_path / "run")
    assert scored(project, arrays, tmp_path / "run", resume=True) == expected
    with pytest.raises(RunFolderError, match="which no file holds; give the same data again"):
        repairkit.report(tmp_path / "run")
    done = repairkit.report(tmp_path / "run", data=arrays)
    assert done.page.is_file()
    curves = repairkit.curve(tmp_path / "run", data=arrays)
    assert curves.document["lines"]
    changed = {**arrays, "x": arrays["x"][::-1].copy()}
    with pytest.raises(RunFolderError, match="other settings or data"):
        scored(project, changed, tmp_path / "run", resume=True)
    with pytest.raises(RunFolderError, match="are not the data that were scored on"):
        repairkit.report(tmp_path / "run", data=changed)


def test_arrays_are_patched_and_proven(project: Project, tmp_path: Path) -> None:
    arrays, out = stored(project), tmp_path / "out.onnx"
    worst = repairkit.score(project.model, arrays, method="exact").table()[-1]["filter"]
    done = repairkit.patch(project.model, arrays, remove=[worst], out=out, settings=SETTINGS)
    assert done.document["data"]["path"] == "arrays given in Python"
    proven = repairkit.verify(project.model, out, settings=replace(SETTINGS, data=as_data(arrays)))
    assert proven.images == "given images"


X, Y = np.zeros((6, 3, 8, 8), np.float32), np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X,), "data is a tuple of 1; expected a path, (x, y)"),
        (42, "data is int; expected a path"),
        ((X, Y[:4]), "y has shape 4 and x holds 6 images"),
        ((X, Y, {"group": Y[:2]}), "group has shape 2 and x holds 6 images"),
        ((X, Y, np.zeros((6, 2))), "groups have shape (6, 2); give one value per image"),
        ((X, Y, {"y": Y}), "groups have a column 'y', which has another meaning"),
        ((np.zeros((0, 3, 8, 8), np.float32), Y[:0]), "x holds no image"),
        ({"images": X, "y": Y}, "has no array 'x'"),
        (([[1.0], [1.0, 2.0]], Y), "x is no array"),
        ((X, np.array([{}, {}, {}, {}, {}, {}])[:, None]), "y holds object of shape (6, 1)"),
    ],
)
def test_what_is_no_data_is_refused_in_one_line(data: Any, message: str, project: Project) -> None:
    with pytest.raises(DataError) as error:
        repairkit.score(project.model, data, settings=SETTINGS)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_function_is_the_metric_that_its_name_is(
    workers: int, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_metric.py").write_text(
        "def half(outputs, labels, attributes):\n    return (outputs.argmax(1) == labels) * 0.5\n"
    )
    monkeypatch.chdir(tmp_path)
    settings = replace(SETTINGS, workers=workers)
    named = scored(
        project, project.data, tmp_path / "named", metric="own_metric:half", settings=settings
    )
    half = importlib.import_module("own_metric").half
    given = scored(project, project.data, tmp_path / "given", metric=half, settings=settings)
    assert given == named
    assert run_of(tmp_path / "given")["key"] == run_of(tmp_path / "named")["key"]
    alone = scored(
        project,
        project.data,
        tmp_path / "alone",
        metric=lambda outputs, labels, _: (outputs.argmax(1) == labels) * 0.5,
        settings=settings,
    )
    assert alone == named
    run = run_of(tmp_path / "alone")
    assert run["settings"]["metrics"] == ["given:<lambda>"]
    assert any("given in Python" in note for note in run["notes"])
    assert "given:<lambda>" in run["again"]["lacks"]


def test_names_and_functions_mix_and_may_not_share_a_name(project: Project) -> None:
    def loudest(outputs: Any, _: Any, __: Any) -> Any:
        return outputs.max(1)

    result = repairkit.score(
        project.model, project.data, metric=["accuracy", loudest], method="exact"
    )
    assert result.scores.metrics == ("accuracy", "given:loudest")
    assert metric_names([share_right, "loss"])[1] == "loss"
    with pytest.raises(SettingsError, match="two metrics have the name given:<lambda>"):
        metric_names([lambda *_: 1, lambda *_: 2])
    with pytest.raises(SettingsError, match=r"failed on .* ZeroDivisionError"):
        repairkit.score(project.model, project.data, metric=lambda *_: 1 / 0)


def test_what_was_given_is_needed_again(project: Project, tmp_path: Path) -> None:
    def own(outputs: Any, labels: Any, attributes: Any) -> Any:
        return share_right(outputs, labels, attributes)

    run = tmp_path / "run"
    given: dict[str, Any] = {"method": "regression", "options": {"images_per_coalition": 4}}
    expected = scored(project, project.data, run, metric=own, keep_rows=True, **given)
    assert scored(project, project.data, run, metric=own, resume=True, **given) == expected
    calls: list[Any] = [
        lambda: repairkit.ask(run),
        lambda: repairkit.ask(run, trust=True),
        lambda: repairkit.report(run),
        lambda: repairkit.curve(run),
        lambda: repairkit.score(project.model, project.data, metric="given:own"),
    ]
    for call in calls:
        with pytest.raises(RepairkitError, match=r"given:own was given in Python") as error:
            call()
        assert "\n" not in str(error.value)
    asked = repairkit.ask(run, metric=own)
    np.testing.assert_allclose(asked.scores.values, repairkit.ask(run, metric=own).scores.values)
    assert repairkit.report(run, metric=own).page.is_file()
    assert repairkit.curve(run, metric=own).document["metric"] == "given:own"


@dataclass(frozen=True)
class Halves:
    """The score with all filters but one, taken from that with all."""

    factor: float = 1.0

    def start(self, facts: GameFacts, _: np.random.Generator) -> HalvesRun:
        return HalvesRun(facts.n_players, facts.metrics, self.factor)


@dataclass
class HalvesRun:
    n: int
    metrics: tuple[str, ...]
    factor: float
    values: Any = None

    def ask(self) -> Round:
        all_but_one = np.concatenate([np.ones((1, self.n), bool), ~np.eye(self.n, dtype=bool)])
        return Round(all_but_one[: 0 if self.values is not None else None])

    def tell(self, outcomes: Outcomes) -> None:
        self.values = outcomes.values

    def read(self) -> Scores:
        return Scores.plain(self.metrics, self.factor * (self.values[:1] - self.values[1:]))


def test_an_estimator_is_given_as_a_class_or_an_object(project: Project, tmp_path: Path) -> None:
    class Nested(Halves):
        pass

    known = scored(project, project.data, tmp_path / "known", method="leave-one-out")
    values = [line.split(",")[:4] for line in known.splitlines()]
    for name, method in (("class", Halves), ("object", Halves(1.0)), ("nested", Nested)):
        text = scored(project, project.data, tmp_path / name, method=method)
        given = [line.split(",")[:4] for line in text.splitlines()]
        assert [row[1] for row in given] == [row[1] for row in values]
        again = scored(project, project.data, tmp_path / name, method=method, resume=True)
        assert again == text
    assert run_of(tmp_path / "nested")["settings"]["method"] == "given:Nested"
    assert run_of(tmp_path / "class")["settings"]["method"].endswith(":Halves")
    doubled = repairkit.score(project.model, project.data, method=Halves, options={"factor": 2.0})
    plain = repairkit.score(project.model, project.data, method=Halves)
    np.testing.assert_allclose(doubled.scores.values, 2 * plain.scores.values)


def test_report_is_the_function_once_its_folder_was_imported() -> None:
    import repairkit.report.page

    assert repairkit.report is repairkit.api.report
    from repairkit import report

    assert report is repairkit.api.report


def test_dir_shows_the_public_names() -> None:
    assert set(repairkit.__all__) <= set(dir(repairkit))
    assert {"score", "patch", "inspect", "report"} <= set(dir(repairkit))
    assert "Agreement" in dir(repairkit.api)
