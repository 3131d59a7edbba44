"""`--group auto` on real models: what is found, what is told, and when it declines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import repairkit as kit
from repairkit.core.errors import SettingsError, TargetNotMetError
from repairkit.data.preprocessing import Preprocessing
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Bench, Settings
from tests.conftest import Answer, Project

SAMPLE = Path(__file__).parents[3] / "samples" / "digits"
SETTINGS = Settings(
    data=SAMPLE / "digits.npz", groups=("auto",), preprocessing=Preprocessing(scale=1 / 16)
)


@pytest.fixture(scope="module")
def bench() -> Bench:
    return prepare(read_subject(SAMPLE / "model.onnx"), SETTINGS)


def test_the_worst_slice_is_the_hidden_group_of_the_sample(bench: Bench) -> None:
    for part in (bench.parts.selection, bench.parts.test):
        about = part.annotations
        inside, truth = about.groups == 0, about.attributes["polarity"] == "dark-on-light"
        area = (inside[truth].mean() + (~inside)[~truth].mean()) / 2
        assert area >= 0.85
        assert about.attributes["auto"][0] == about.group_names[about.groups[0]]


def test_what_is_told_of_a_slice_is_so(bench: Bench) -> None:
    assert bench.slices is not None
    part = bench.parts.selection
    right = bench.form.predictions(bench.working.run_plain(part)) == part.annotations.labels
    for number, row in enumerate(bench.slices["slices"]):
        members = part.annotations.groups == number
        assert row["n_images"] == members.sum()
        assert row["accuracy"]["value"] == pytest.approx(right[members].mean())
        assert row["accuracy"]["ci_low"] < row["accuracy"]["value"] < row["accuracy"]["ci_high"]
        shown = [image["row"] for image in row["images"]]
        assert len(shown) == 8
        assert set(shown) <= set(part.indices[members].tolist())
    assert bench.reading["slices"] == bench.slices
    assert json.loads(json.dumps(bench.slices)) == bench.slices


def test_images_that_did_not_choose_have_no_say(bench: Bench) -> None:
    """Test images with other labels change no slice."""
    data = bench.dataset
    labels = data.annotations.labels.copy()
    test = bench.parts.test.indices
    labels[test] = (labels[test] + 1) % 10
    plain = replace(data.annotations, groups=None, group_names=(), labels=labels)
    again = prepare(bench.subject, SETTINGS, dataset=replace(data, annotations=plain))
    np.testing.assert_array_equal(again.dataset.annotations.groups, data.annotations.groups)


def test_inspect_lists_slices(repairkit: Callable[..., Answer]) -> None:
    words = ("inspect", SAMPLE / "model.onnx", "--data", SAMPLE / "digits.npz")
    answer = repairkit(*words, "--group", "auto", "--json")
    assert answer.code == 0, answer.err
    assert next(row["name"] for row in json.loads(answer.out)["slices"]["slices"]) == "slice 1"


def test_it_declines_in_one_line_where_no_slice_is_surely_worse(
    repairkit: Callable[..., Answer], project: Project
) -> None:
    for command in ("score", "patch"):
        words = ("--fairness", "-o", "new.onnx") if command == "patch" else ("-o", "run")
        answer = repairkit(command, project.model, "--group", "auto", *words)
        assert answer.code == 4
        lines = [line for line in answer.err.splitlines() if "--group auto" in line]
        assert len(lines) == 1
        assert "nothing was written" in lines[0]
    answer = repairkit("inspect", project.model, "--data", project.data, "--group", "auto")
    assert answer.code == 0
    assert "--group auto: no" in answer.out


def test_auto_stands_alone_and_gives_way_to_a_column(
    repairkit: Callable[..., Answer], project: Project
) -> None:
    answer = repairkit("score", project.model, "--group", "auto,group", "-o", "run")
    assert answer.code == 1
    assert "stands alone" in answer.err
    with np.load(project.data) as stored:
        np.savez(project.data, **stored, auto=stored["group"])
    bench = prepare(read_subject(project.model), Settings(data=project.data, groups=("auto",)))
    assert bench.slices is None
    assert bench.dataset.annotations.group_names == ("a", "b")


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.mixture", None)
    with pytest.raises(SettingsError, match=r"pip install 'repairkit\[slices\]'"):
        prepare(read_subject(SAMPLE / "model.onnx"), SETTINGS)


def test_a_regressor_and_attacked_images_are_refused(project: Project) -> None:
    with np.load(project.data) as stored:
        arrays = {**stored}
    n_images = len(arrays["y"])
    arrays |= {"adversarial": np.arange(n_images) % 2, "target": np.zeros(n_images, int)}
    np.savez(project.data, **arrays)
    settings = Settings(data=project.data, groups=("auto",))
    with pytest.raises(SettingsError, match="adversarial ones"):
        prepare(read_subject(project.model), settings)


def test_a_test_part_without_a_slice_is_refused() -> None:
    with np.load(SAMPLE / "digits.npz") as stored:
        x, y, polarity = stored["x"], stored["y"], stored["polarity"]
    light = np.flatnonzero(polarity == "light-on-dark")
    split = np.full(len(x), "selection", "<U9")
    split[light[:4]] = "test"
    data = {"x": x, "y": y, "split": split}
    with pytest.raises(TargetNotMetError, match="test part holds no image of 'slice"):
        kit.score(SAMPLE / "model.onnx", data, groups="auto", scale="1/16", out="run")
