"""No option that names an output replaces a file that repairkit did not write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Answer, Project

Command = Callable[..., Answer]
SCORE = ("score", "--metric", "accuracy", "--method", "exact", "--quiet")


def lines(project: Project, target: Path) -> dict[str, tuple[str | Path, ...]]:
    model, run = project.model, project.folder / "run"
    score = (SCORE[0], model, *SCORE[1:])
    return {
        "means": ("means", model, "-o", target),
        "report": ("report", run, "-o", target),
        "report's numbers": ("report", run, "-o", target.with_suffix(".html")),
        "log": (*score, "-o", "new", "--log-json", target),
        "figures": (*score, "-o", "new", "--prometheus-file", target),
        "share": (*score, "-o", "new", "--share", target),
        "run": (*score, "-o", target),
        "instrument": ("instrument", model, "-o", target),
        "patch": ("patch", model, "--remove", "conv:1", "-o", target),
    }


@pytest.mark.parametrize(
    "output",
    [
        "means",
        "report",
        "report's numbers",
        "log",
        "figures",
        "share",
        "run",
        "instrument",
        "patch",
    ],
)
def test_what_the_user_has_stays(repairkit: Command, project: Project, output: str) -> None:
    if output == "figures":
        pytest.importorskip("prometheus_client")
    if output.startswith("report"):
        run = ("score", project.model, *SCORE[1:], "-o", project.folder / "run")
        assert repairkit(*run).code == 0
    kept = project.folder / "kept.json"
    kept.write_bytes(project.data.read_bytes())
    answer = repairkit(*lines(project, kept)[output])
    assert answer.code == 1
    assert answer.err.count("\n") == 1
    assert "kept.json" in answer.err
    assert "exists" in answer.err
    assert kept.read_bytes() == project.data.read_bytes()
    assert not Path("new").exists()


@pytest.mark.parametrize("output", ["means", "report", "log", "figures"])
def test_what_repairkit_wrote_is_replaced(
    repairkit: Command, project: Project, tmp_path: Path, output: str
) -> None:
    if output == "figures":
        pytest.importorskip("prometheus_client")
    run = ("score", project.model, *SCORE[1:], "-o", project.folder / "run")
    assert repairkit(*run).code == 0
    for _ in range(2):
        answer = repairkit(*lines(project, tmp_path / "ours.html")[output])
        assert answer.code == 0, answer.err


def test_the_model_itself_stays(repairkit: Command, project: Project) -> None:
    before = project.model.read_bytes()
    for command in ("instrument", "means", "patch"):
        choice = ("--remove", "conv:1") if command == "patch" else ()
        answer = repairkit(command, project.model, *choice, "-o", project.model)
        assert (answer.code, answer.err.count("\n")) == (1, 1)
        assert project.model.read_bytes() == before
