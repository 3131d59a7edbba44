"""The class is a column like any other where groups are named: class x attribute is a group."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repairkit.core.errors import DataError
from repairkit.data.reader import DataRequest, read_data
from tests.cli.test_commands import harm
from tests.conftest import Answer, Project, write_project
from tests.data.builders import PLAIN, save_folder, spec

Command = Callable[..., Answer]
FAST = ("--method", "leave-one-out", "--quiet")


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = write_project(tmp_path_factory.mktemp("labelled"))
    harm(project)
    return project


@pytest.fixture
def harmed(made_once: Project, tmp_path: Path) -> Project:
    folder = tmp_path / "project"
    shutil.copytree(made_once.folder, folder)
    return Project(folder, folder / "model.onnx", folder / "data.npz")


def run_of(place: str = "run") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(place, "run.json").read_text())
    return found


@pytest.mark.parametrize("groups", [("label",), ("group", "label"), ("label", "group")])
def test_values_of_groups_by_class_are_those_of_a_column_with_the_class_names(
    repairkit: Command, harmed: Project, groups: tuple[str, ...]
) -> None:
    """The independent way: the same crosses written into the data as a column of their own."""
    stored = dict(np.load(harmed.data))
    parts = [stored["y"].astype(str) if name == "label" else stored[name] for name in groups]
    crossed = [" × ".join(row) for row in zip(*parts, strict=True)]  # noqa: RUF001 - the cross
    np.savez("crossed.npz", **stored, kind=np.array(crossed))
    group = f"group_accuracy:{crossed[0]}"
    wanted = ("--metric", "worst_group_accuracy", "--metric", group, "--metric", "group_loss")
    score = ("score", harmed.model, "--data", "crossed.npz", *wanted, *FAST)
    for place, columns in (("ours", ",".join(groups)), ("theirs", "kind")):
        answer = repairkit(*score, "--group", columns, "-o", place)
        assert answer.code == 0, answer.err
    for name in ("metrics", "parts", "counts"):
        assert run_of("ours")[name] == run_of("theirs")[name]
    assert Path("ours/scores.csv").read_bytes() == Path("theirs/scores.csv").read_bytes()
    assert sorted(run_of("ours")["read"]["groups"]) == sorted(set(crossed))


def test_a_repair_may_be_for_the_worst_class_of_an_attribute(
    repairkit: Command, harmed: Project
) -> None:
    (harmed.folder / "repairkit.toml").write_text(
        'model = "model.onnx"\ndata = "data.npz"\ngroups = ["label", "group"]\n'
    )
    answer = repairkit("patch", harmed.model, "--remove", "conv:2", "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    crossed = [" × ".join((y, g)) for y in "12" for g in "ab"]  # noqa: RUF001 - the cross
    assert list(told["evaluations"]["after"]["groups"]) == crossed
    tables = {table["name"]: table for table in told["fairness"]["columns"]}
    assert list(tables) == ["label", "group", "label × group"]  # noqa: RUF001 - the cross
    # Within a class no image is of another one, so its true positive rate is of one group alone.
    assert [group["name"] for group in tables["label"]["groups"]] == ["1", "2"]
    assert tables["label"]["disparities"]["equal_opportunity_difference"] is None


def test_classes_of_a_folder_make_groups(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "images", {"cat": 2, "dog": 3, "eel": 1})
    data = read_data(folder, DataRequest(spec=spec(), preprocessing=PLAIN, groups=("label",)))
    assert data.annotations.groups is not None
    assert data.annotations.group_names == data.annotations.class_names == ("cat", "dog", "eel")
    assert data.annotations.groups.tolist() == data.annotations.labels.tolist()
    known = "the data has label; did you mean 'label'"
    with pytest.raises(DataError, match=f"unknown group column 'lable': {known}"):
        read_data(folder, DataRequest(spec=spec(), preprocessing=PLAIN, groups=("lable",)))


def test_crosses_that_are_empty_or_too_small_are_named(repairkit: Command, harmed: Project) -> None:
    stored = dict(np.load(harmed.data))
    colour = np.where(stored["y"] == 1, "red", "blue")
    np.savez(harmed.data, **stored, colour=colour)
    score = ("score", harmed.model, "--metric", "worst_group_accuracy", "--group", "label,colour")
    assert repairkit(*score, *FAST, "-o", "run").code == 0
    (note,) = [note for note in run_of()["notes"] if "have no image" in note]
    assert note.startswith("2 of the 4 groups by label × colour have no image: '1 × blue', '2 ×")  # noqa: RUF001
    colour[0] = "tan"
    np.savez(harmed.data, **stored, colour=colour)
    answer = repairkit(*score, *FAST, "-o", "few")
    assert answer.code == 1
    assert answer.err.count("\n") == 1
    name = f"{stored['y'][0]} × tan"  # noqa: RUF001 - the cross
    assert f"part holds no image of group '{name}'" in answer.err.replace(", a share of 0.3,", "")
    assert "which has 1 in all" in answer.err
    answer = repairkit(
        "patch", harmed.model, "--fairness", "--group", "label,colour", "--test=none"
    )
    assert answer.code == 4
    assert f"of group '{name}'" in answer.err


def test_targets_of_a_regressor_make_no_groups(repairkit: Command, project: Project) -> None:
    stored = dict(np.load(project.data))
    np.savez(project.data, **{**stored, "y": stored["y"] + 0.5})
    score = ("score", project.model, "--metric", "mean_absolute_error", *FAST)
    answer = repairkit(*score, "--group", "label", "-o", "run")
    assert answer.code == 1
    assert answer.err.count("\n") == 1
    assert "cannot be grouped by 'label': the labels are targets of a regressor" in answer.err


def test_jobs_that_need_no_label_take_images_without_any(
    repairkit: Command, project: Project
) -> None:
    stored = dict(np.load(project.data))
    np.savez(project.data, x=stored["x"])
    (project.folder / "repairkit.toml").write_text(
        'model = "model.onnx"\ndata = "data.npz"\ngroups = ["label"]\n'
    )
    answer = repairkit("patch", project.model, "--remove", "conv:0")
    assert answer.code == 0, answer.err
    assert "no metric was computed" in answer.out
