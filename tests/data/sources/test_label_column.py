"""Labels may stand in a column of any name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import repairkit as kit
from repairkit.core.errors import DataError, SettingsError
from repairkit.data.dataset import Dataset
from repairkit.data.preprocessing import InputSpec
from repairkit.data.reader import DataRequest, read_data
from tests.conftest import Answer, Project
from tests.data.builders import PLAIN, save_folder, save_manifest, spec

Command = Callable[..., Answer]


def read(path: Path, **more: object) -> Dataset:
    return read_data(path, DataRequest(**{"spec": spec(), "preprocessing": PLAIN, **more}))  # type: ignore[arg-type]


def same_labels(one: Dataset, other: Dataset) -> bool:
    a, b = one.annotations, other.annotations
    return a.labels.tolist() == b.labels.tolist() and a.class_names == b.class_names


def test_a_manifest_reads_the_named_column_as_if_it_were_label(tmp_path: Path) -> None:
    text = "path,{},sex\na.png,dog,f\nb.png,cat,m\n"
    usual = read(save_manifest(tmp_path / "usual.csv", text.format("label")))
    named = read(save_manifest(tmp_path / "named.csv", text.format("animal")), label="animal")
    assert same_labels(named, usual)
    assert named.annotations.class_names == ("cat", "dog")
    assert named.left_out == ()


def test_the_named_column_is_still_one_to_group_by(tmp_path: Path) -> None:
    path = save_manifest(tmp_path / "m.csv", "path,animal\na.png,dog\nb.png,cat\n")
    by_name = read(path, label="animal", groups=("animal",))
    by_label = read(path, label="animal", groups=("label",))
    assert by_name.annotations.group_names == by_label.annotations.group_names == ("cat", "dog")
    assert by_name.annotations.groups.tolist() == by_label.annotations.groups.tolist()


def test_the_usual_column_gives_way_and_that_is_told(tmp_path: Path) -> None:
    path = save_manifest(tmp_path / "m.csv", "path,label,sex\na.png,1,f\nb.png,1,m\n")
    data = read(path, label="sex")
    assert data.annotations.class_names == ("f", "m")
    assert data.left_out == ("the column 'label', as the labels are those of the column 'sex'",)


def test_an_archive_reads_the_named_array(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, kind = rng.integers(0, 256, (4, 8, 8, 3), np.uint8), np.array([1, 0, 1, 1])
    np.savez(tmp_path / "usual.npz", x=x, y=kind)
    np.savez(tmp_path / "named.npz", x=x, kind=kind)
    usual, named = (read(tmp_path / f"{name}.npz", label=label) for name, label in
                    (("usual", None), ("named", "kind")))  # fmt: skip
    assert same_labels(named, usual)


def test_a_model_of_rows_does_not_take_the_labels(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b,ill\n1,2,0\n3,4,1\n")
    table = InputSpec("other", (2,), np.dtype("float32"))
    data = read(tmp_path / "rows.csv", spec=table, label="ill")
    assert data.images.batch(np.arange(2)).tolist() == [[1, 2], [3, 4]]
    assert data.annotations.labels.tolist() == [0, 1]


def test_a_column_that_is_not_there_and_a_folder_are_refused(tmp_path: Path) -> None:
    path = save_manifest(tmp_path / "m.csv", "path,label\na.png,1\nb.png,0\n")
    with pytest.raises(DataError, match="has no column 'lable'; did you mean 'label'"):
        read(path, label="lable")
    folder = save_folder(tmp_path / "images", {"cat": 1, "dog": 1})
    with pytest.raises(SettingsError, match=r"sub-folders are the labels.*leave --label out"):
        read(folder, label="kind")


def test_a_run_and_its_report_know_the_column(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    with np.load(project.data) as data:
        arrays = dict(data)
    arrays["kind"] = arrays.pop("y")
    np.savez(project.data, **arrays)
    score = ("score", project.model, "--method", "exact", "--quiet", "-o", "run")
    assert "has no array 'y'" in repairkit(*score).err
    (project.folder / "repairkit.toml").write_text('data = "data.npz"\nlabel = "kind"\n')
    assert repairkit(*score).code == 0
    document = json.loads((tmp_path / "run" / "run.json").read_text())
    assert document["settings"]["label"] == "kind"
    assert repairkit("report", "run", "--quiet").code == 0
    settings = kit.Settings(data=project.data, label="kind")
    again = kit.score(project.model, method="exact", settings=settings)
    assert [row["value"] for row in again.table()] == [
        row["value"] for row in kit.score(project.model, method="exact").table()
    ]
