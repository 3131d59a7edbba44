"""Several runs' removal curves in one picture."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import repairkit as rk
from tests.conftest import Answer, Project, write_project

Command = Callable[..., Answer]


@pytest.fixture
def runs(repairkit: Command, project: Project) -> tuple[Path, Path]:
    """Two runs by different methods, the second without a curve of its own."""
    for method, more in (("exact", ()), ("leave-one-out", ("--no-curve",))):
        how = ("--method", method, *more, "-o", method, "--quiet")
        assert repairkit("score", project.model, *how).code == 0
    return Path("exact"), Path("leave-one-out")


def overlaid(repairkit: Command, *words: str | Path) -> dict[str, Any]:
    answer = repairkit("curve", *words, "--json")
    assert answer.code == 0, answer.err
    document: dict[str, Any] = json.loads(answer.out)
    return document


def test_two_runs_are_drawn_as_each_would_be_alone(
    repairkit: Command, project: Project, runs: tuple[Path, Path]
) -> None:
    document = overlaid(repairkit, *runs, "--side", "both")
    assert [run["stored"] for run in document["runs"]] == [True, False]
    how = ("--method", "leave-one-out", "-o", "with-curve", "--quiet")
    assert repairkit("score", project.model, *how).code == 0
    for folder, label in ((runs[0], "exact"), (Path("with-curve"), "leave-one-out")):
        stored = json.loads((folder / "run.json").read_text())["curve"]
        for name in ("highest", "lowest"):
            (alone,) = (line for line in stored["lines"] if line["name"] == name)
            (shown,) = (
                line
                for line in document["lines"]
                if line["name"] == name and line["label"].startswith(f"{label},")
            )
            assert shown["figures"] == alone["figures"]["accuracy"]
            assert shown["filters"] == alone["filters"]
    names = [line["name"] for line in document["lines"]]
    assert names.count("random") == names.count("weight-norm") == 1


def test_pictures_tables_and_pages_hold_the_same_numbers(
    repairkit: Command, runs: tuple[Path, Path]
) -> None:
    document = overlaid(repairkit, *runs, "-o", "picture.svg")
    picture = ET.parse("picture.svg").getroot()
    drawn = [e for e in picture.iter() if e.get("class", "").startswith("dot ")]
    known = [f for line in document["lines"] for f in line["figures"] if f is not None]
    assert len(drawn) == len(known)
    assert repairkit("curve", *runs, "-o", "table.csv", "--quiet").code == 0
    with Path("table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["value"]) for row in rows] == [figure["value"] for figure in known]
    assert repairkit("curve", *runs, "-o", "page.html", "--quiet").code == 0
    page = Path("page.html").read_text()
    assert all(line["label"] in page for line in document["lines"])
    assert "<script" not in page


def test_the_terminal_shows_a_line_for_each_run(
    repairkit: Command, runs: tuple[Path, Path]
) -> None:
    answer = repairkit("curve", *runs)
    assert answer.code == 0, answer.err
    assert "exact, highest values first" in answer.out
    assert "leave-one-out, highest values first" in answer.out
    assert "images of the test part, which scored nothing" in answer.out


def test_from_python_it_is_the_same(repairkit: Command, runs: tuple[Path, Path]) -> None:
    assert rk.curve(runs, side="lowest").to_json() == overlaid(repairkit, *runs, "--side", "lowest")
    assert rk.curve(runs[0]).document["runs"][0]["label"] == "exact"


def refused(repairkit: Command, *words: str | Path) -> str:
    answer = repairkit("curve", *words)
    assert answer.code == 1
    assert answer.err.count("\n") == 1, answer.err
    return answer.err


def test_runs_of_other_models_and_other_images_are_refused_in_one_line(
    repairkit: Command, project: Project, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    strange = write_project(other, layer="no_bias")
    how = ("--method", "exact", "--no-curve", "--quiet", "-o")
    assert repairkit("score", strange.model, *how, "strange").code == 0
    assert "which is another model" in refused(repairkit, *runs, "strange")
    assert repairkit("score", project.model, *how, "seed", "--seed", "4").code == 0
    assert "is judged by other images" in refused(repairkit, runs[0], "seed")
    stored = dict(np.load(project.data))
    more = project.folder / "more.npz"
    np.savez(more, **{**stored, "y": stored["y"][::-1]})
    accepted = ("--accept-preprocessing", "--data", more)
    assert repairkit("score", project.model, *how, "data", *accepted).code == 0
    assert "was scored on other data" in refused(repairkit, runs[0], "data")


def test_wrong_words_are_refused_in_one_line(
    repairkit: Command, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    assert "end the name given to -o" in refused(repairkit, runs[0], "-o", "picture.png")
    assert "expected highest, lowest, both" in refused(repairkit, runs[0], "--side", "left")
    assert "does not hold loss" in refused(repairkit, runs[0], "--metric", "loss")
    assert "nowhere" in refused(repairkit, "nowhere")
    (tmp_path / "mine.svg").write_text("<svg/>")
    assert "mine.svg" in refused(repairkit, runs[0], "-o", "mine.svg")
    assert (tmp_path / "mine.svg").read_text() == "<svg/>"


def test_a_run_whose_model_moved_is_drawn_when_told_where(
    repairkit: Command, project: Project, runs: tuple[Path, Path]
) -> None:
    model = project.model.rename(project.folder / "moved.onnx")
    assert "name where they lie with --model" in refused(repairkit, runs[1])
    assert overlaid(repairkit, runs[1], "--model", model)["runs"][0]["stored"] is False
    onnx.save(onnx.load(model), model)
    assert overlaid(repairkit, runs[0])["runs"][0]["stored"] is True
