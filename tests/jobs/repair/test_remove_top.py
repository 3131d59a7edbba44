"""`patch --remove-top`: the first filters of a run, frozen and proven as named ones are."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.conftest import Answer, Project

Command = Callable[..., Answer]


@pytest.fixture
def scored(repairkit: Command, project: Project) -> list[str]:
    """The filters of a run in rank order."""
    how = ("--method", "exact", "--metric", "loss", "--metric", "accuracy")
    answer = repairkit("score", project.model, *how, "--quiet", "-o", "run")
    assert answer.code == 0, answer.err
    with Path("run/scores.csv").open() as file:
        return [row["filter"] for row in csv.DictReader(file)]


def test_the_top_of_a_run_is_frozen_as_the_same_filters_by_name_are(
    repairkit: Command, project: Project, scored: list[str]
) -> None:
    top = ("--remove-top", "2", "--scores", "run", "-o", "top.onnx", "--quiet")
    assert repairkit("patch", project.model, *top).code == 0
    named = ("--remove", ",".join(scored[:2]), "-o", "named.onnx", "--quiet")
    assert repairkit("patch", project.model, *named).code == 0
    by_top, by_name = (onnx.load(f"{name}.onnx").graph for name in ("top", "named"))
    assert by_top.SerializeToString() == by_name.SerializeToString()
    assert repairkit("verify", project.model, "top.onnx", "--quiet").code == 0
    assert repairkit("revert", "top.onnx", "-o", "back.onnx", "--quiet").code == 0
    assert Path("back.onnx").read_bytes() == project.model.read_bytes()
    report = json.loads(Path("top.report.json").read_text())
    assert report["choice"]["how"] == "top"
    assert report["choice"]["remove_top"] == 2
    assert report["objective"] == "loss"
    assert "the filters are the 2 of highest value in run: nothing was chosen" in report["notes"]


@pytest.mark.usefixtures("scored")
def test_its_figures_are_those_of_the_curve(repairkit: Command, project: Project) -> None:
    curve = json.loads(Path("run/run.json").read_text())["curve"]
    (line,) = (each for each in curve["lines"] if each["name"] == "highest")
    for number, size in enumerate(curve["sizes"][1:], start=1):
        top = ("--remove-top", str(size), "--scores", "run", "-o", "top.onnx", "--json")
        answer = repairkit("patch", project.model, *top)
        after = json.loads(answer.out)["evaluations"]["after"]
        assert after["suite"] == "test"
        for metric, figures in line["figures"].items():
            assert after["metrics"][metric]["value"] == pytest.approx(figures[number]["value"])


@pytest.mark.parametrize(
    "more",
    [
        ("--remove", "conv:1"),
        ("--fairness",),
        ("--robustness",),
        ("--objective", "accuracy"),
        ("--target", "accuracy>=0.5"),
        ("--choose", "plain"),
        ("--beam", "2"),
        ("--repair", "bias"),
        ("--level", "best"),
    ],
)
@pytest.mark.usefixtures("scored")
def test_nothing_else_chooses_filters_beside_it(
    repairkit: Command, project: Project, more: tuple[str, ...]
) -> None:
    top = ("--remove-top", "2", "--scores", "run", "-o", "top.onnx")
    answer = repairkit("patch", project.model, *top, *more)
    assert answer.code == 1
    assert answer.err.count("\n") == 1
    assert "--remove-top with --scores says which filters to freeze" in answer.err
    assert not Path("top.onnx").exists()


@pytest.mark.usefixtures("scored")
def test_runs_that_cannot_say_it_are_refused_in_one_line(
    repairkit: Command, project: Project
) -> None:
    def error(*words: Any) -> str:
        answer = repairkit("patch", project.model, *words, "-o", "top.onnx")
        assert answer.code == 1
        return answer.err.splitlines()[-1]

    assert "name it with --scores RUN" in error("--remove-top", "2")
    run = ("--scores", "run")
    assert "ranks 4 filters and --remove-top asks for 9" in error("--remove-top", "9", *run)
    assert "was scored with absent 'mean'" in error("--remove-top", "2", *run, "--absent", "zero")
    other_parts = error("--remove-top", "2", *run, "--test", "0.5")
    assert "was scored with parts of other images" in other_parts


def test_without_a_test_part_the_report_says_what_judges(
    repairkit: Command, project: Project
) -> None:
    how = ("--method", "exact", "--test", "none", "-o", "run", "--quiet")
    assert repairkit("score", project.model, *how).code == 0
    top = ("--remove-top", "1", "--scores", "run", "--test", "none", "-o", "top.onnx")
    answer = repairkit("patch", project.model, *top)
    assert answer.code == 0, answer.err
    assert "the images that report are those that scored the filters" in answer.out
