"""Names that a stranger chose are shown, and do nothing."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.conftest import Answer, Project

Command = Callable[..., Answer]
EVIL = "\x1b[2Jconv\x9b31m\u202e[bold red]=cmd|'/c calc'!A1[/]\rx"


@pytest.fixture
def evil(project: Project) -> Project:
    """A model and data whose names would clear the screen, colour the text or run a command."""
    model = onnx.load(project.model)
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.name = f"={EVIL}"
    for value in model.graph.output:
        for node in model.graph.node:
            node.output[:] = [EVIL if o == value.name else o for o in node.output]
        value.name = EVIL
    onnx.save(model, project.model)
    stored = dict(np.load(project.data))
    np.savez(project.data, **{**stored, "group": np.array([EVIL + g for g in stored["group"]])})
    return project


def harmless(answer: Answer) -> None:
    assert (answer.out + answer.err).replace("\n", "").isprintable()


def test_names_are_escaped_wherever_they_are_shown(
    repairkit: Command, evil: Project, tmp_path: Path
) -> None:
    shown = repairkit("inspect", evil.model)
    assert shown.code == 0, shown.err
    harmless(shown)
    assert "\\x1b[2Jconv" in shown.out
    assert "[bold red]" in shown.out
    listed = repairkit("inspect", evil.model, "--json")
    harmless(listed)
    site = json.loads(listed.out)["sites"][0]["site"]
    assert site == f"={EVIL}"

    scored = repairkit("score", evil.model, "--method", "exact", "-o", "run")
    assert scored.code == 0, scored.err
    harmless(scored)
    text = (tmp_path / "run" / "scores.csv").read_text()
    rows = list(csv.DictReader(text.splitlines(keepends=True)))
    assert all(row["filter"].startswith("'=") and row["site"].startswith("'=") for row in rows)

    patched = repairkit("patch", evil.model, "--remove", f"{site}:1", "-o", "out.onnx")
    assert patched.code == 0, patched.err
    harmless(patched)
    proven = repairkit("verify", evil.model, "out.onnx")
    assert proven.code == 0, proven.err
    harmless(proven)
    undone = repairkit("revert", "out.onnx", "-o", "back.onnx")
    assert undone.code == 0, undone.err
    assert (tmp_path / "back.onnx").read_bytes() == evil.model.read_bytes()


def test_scores_of_a_model_with_such_names_are_read_back(repairkit: Command, evil: Project) -> None:
    assert repairkit("score", evil.model, "--method", "exact", "-o", "run", "--quiet").code == 0
    answer = repairkit("patch", evil.model, "--scores", "run", "--quiet")
    assert answer.code in (0, 4), answer.err
    harmless(answer)


def test_errors_that_quote_names_are_one_printable_line(repairkit: Command, evil: Project) -> None:
    for arguments in (("--output", EVIL + "?"), ("--sites", "\x1b]0;title\x07"), ("--group", EVIL)):
        answer = repairkit("score", evil.model, *arguments)
        assert answer.code == 1
        assert answer.err.count("\n") == 1
        harmless(answer)
