"""`repairkit ask` on the command line: tables, one document, folders that other commands take."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from tests.conftest import Answer, Project
from tests.formats.test_records import SCHEMA

Command = Callable[..., Answer]


@pytest.fixture
def run(project: Project, repairkit: Command, tmp_path: Path) -> Path:
    """A run of the project that kept its rows."""
    answer = repairkit(
        "score", project.model, "--method", "regression", "--keep-rows", "--metric", "group_loss",
        "--max-evaluations", "1500", "--group", "group", "-o", tmp_path / "run",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert "rows are kept: about 25 kB for 1,500 rows" in answer.err
    return tmp_path / "run"


def test_an_answer_is_a_table_that_says_what_it_rests_on(run: Path, repairkit: Command) -> None:
    answer = repairkit("ask", run, "--metric", "loss", "--where", "group == 'b' or label == 1")
    assert answer.code == 0, answer.err
    assert "Value of 4 filters for loss" in answer.out
    assert f"asked of {run} without a forward pass" in answer.out


def test_json_is_one_document_as_of_a_scoring(run: Path, repairkit: Command) -> None:
    answer = repairkit("ask", run, "--class", "2", "--metric", "accuracy", "--json")
    document = json.loads(answer.out)
    assert answer.code == 0
    assert document["asked"]["where"] == "class 2"
    assert document["settings"]["metrics"] == ["accuracy"]
    assert len(document["scores"]) == 4


def test_an_answer_is_a_folder_that_other_commands_take(
    run: Path, repairkit: Command, project: Project, tmp_path: Path
) -> None:
    out = tmp_path / "answer"
    answer = repairkit("ask", run, "--metric", "loss", "--images", "0-80", "-o", out)
    assert answer.code == 1  # some of these are in another part
    assert "no row saw image" in answer.err
    answer = repairkit("ask", run, "--metric", "group_loss", "--where", "label != 0", "-o", out)
    assert answer.code == 0, answer.err
    jsonschema.validate(json.loads((out / "run.json").read_text()), SCHEMA)
    assert repairkit("compare", run, out).code == 0
    assert repairkit("report", out).code == 0
    page = (out / "report.html").read_text()
    assert "repairkit ask" in page
    assert "label != 0" in page
    patched = repairkit(
        "patch", project.model, "--scores", out, "--objective", "group_loss", "--group", "group",
        "-o", tmp_path / "patched.onnx",
    )  # fmt: skip
    assert patched.code in (0, 4), patched.err  # a tiny model may have no repair
    again = repairkit("ask", run, "--metric", "group_loss", "--where", "label != 0", "-o", out)
    assert again.code == 0  # the same question may be asked again
    other = repairkit("ask", run, "--metric", "loss", "-o", out)
    assert other.code == 1
    assert "holds a run with other settings" in other.err


def test_images_may_stand_in_a_file(run: Path, repairkit: Command, tmp_path: Path) -> None:
    shown = json.loads(repairkit("ask", run, "--metric", "loss", "--json").out)
    assert shown["asked"]["n_images"] > 50
    numbers = tmp_path / "numbers.txt"
    numbers.write_text("one\n")
    answer = repairkit("ask", run, "--images", numbers)
    assert answer.code == 1
    assert "found 'one'" in answer.err
    assert len(answer.err.strip().splitlines()[-1:]) == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--where", "age == 3"), 1, "there is no column 'age'; the columns are label, group"),
        (("--where", "group = 'a'"), 1, "equality is =="),
        (("--class", "9"), 1, "there is no such class"),
        (("--metric", "worst_group_accuracy"), 1, "judges images together"),
        (("--exclude-share", "0.5"), 1, "needs a metric"),
        (("--max-evaluations", "5"), 2, "No such option"),
    ],
)
def test_wrong_questions_end_in_one_line(
    run: Path, repairkit: Command, words: tuple[str, ...], code: int, said: str
) -> None:
    answer = repairkit("ask", run, *words)
    assert answer.code == code
    assert said in answer.err
    assert answer.err.strip().splitlines()[-1].startswith("repairkit: ")


def test_a_folder_without_rows_says_what_would_have_them(
    project: Project, repairkit: Command, tmp_path: Path
) -> None:
    answer = repairkit("ask", tmp_path / "nothing")
    assert answer.code == 1
    repairkit("score", project.model, "--method", "exact", "-o", tmp_path / "run")
    answer = repairkit("ask", tmp_path / "run")
    assert answer.code == 1
    assert "score with --keep-rows and the method regression, repair or auto" in answer.err


def test_the_top_of_another_metric_of_a_scoring_is_left_out(
    project: Project, repairkit: Command, tmp_path: Path
) -> None:
    answer = repairkit(
        "score", project.model, "--method", "exact", "--metric", "recall:1", "--metric",
        "accuracy", "--exclude-top-of", "accuracy", "--exclude-share", "0.25", "--json",
        "-o", tmp_path / "run",
    )  # fmt: skip
    document = json.loads(answer.out)
    assert len(document["scores"]) == 3
    assert document["excluded"]["metric"] == "accuracy"
    assert "of this run" in " ".join(document["notes"])
