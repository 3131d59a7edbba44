"""Of a forest, people read of trees; documents keep the names of their fields."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier

from tests.cli.test_layer_names import text_of
from tests.conftest import Answer, Project
from tests.tables import converted, save, write_table

Command = Callable[..., Answer]
WORD = re.compile(r"\bfilters?\b", re.IGNORECASE)


@pytest.fixture
def forest(tmp_path: Path) -> tuple[str | Path, ...]:
    """A forest of 8 trees and its table."""
    x, y = load_wine(return_X_y=True)
    trees = RandomForestClassifier(8, max_depth=3, random_state=0).fit(x[::2], y[::2])
    model = save(converted(trees, x.astype(np.float32)), tmp_path / "forest.onnx")
    data = write_table(tmp_path / "rows.csv", x, y, group=["a" if n % 3 else "b" for n in y])
    return model, "--data", data, "--group", "group", "--accept-preprocessing"


def test_no_sentence_of_a_forest_speaks_of_filters(
    repairkit: Command, forest: tuple[str | Path, ...]
) -> None:
    answers = {
        "inspect": repairkit("inspect", forest[0]),
        "score": repairkit("score", *forest, "--max-evaluations", "600", "-o", "run"),
        "report": repairkit("report", "run"),
        "curve": repairkit("curve", "run", "-o", "curve.html"),
        "remove": repairkit(
            "patch", *forest, "--remove-top", "2", "--scores", "run", "-o", "top.onnx"
        ),
        "verify": repairkit("verify", forest[0], "top.onnx"),
        "revert": repairkit("revert", "top.onnx", "-o", "back.onnx"),
        "patch": repairkit("patch", *forest, "--objective", "accuracy", "-o", "out.onnx"),
    }
    for command, answer in answers.items():
        assert answer.code in (0, 4), (command, answer.err)
        shown = answer.out + answer.err
        assert not WORD.search(shown), (command, WORD.findall(shown))
        assert command in ("report", "patch") or re.search(r"\btrees?\b", shown)
    few = repairkit("score", *forest, "--max-evaluations", "3")
    assert few.code == 1
    assert "of 8 trees" in few.err
    for page in (Path("run/report.html"), Path("curve.html"), Path("top.report.html")):
        text = text_of(page)
        assert not WORD.search(text), (
            page,
            [line for line in text.splitlines() if WORD.search(line)],
        )
        assert re.search(r"\btrees?\b", text)
    card = Path("top.model-card.md").read_text(encoding="utf-8")
    assert not WORD.search(card)
    run = json.loads(Path("run/run.json").read_text(encoding="utf-8"))
    assert (run["unit"], run["n_filters"]) == ("tree", 8)


def test_a_networks_filters_stay_filters_also_after_a_forest(
    repairkit: Command, project: Project, forest: tuple[str | Path, ...]
) -> None:
    assert repairkit("inspect", forest[0]).code == 0
    answer = repairkit("inspect", project.model)
    assert "4 filters" in answer.out
    assert "tree" not in answer.out
    assert repairkit("score", project.model, "--max-evaluations", "400", "-o", "run").code == 0
    assert "unit" not in json.loads(Path("run/run.json").read_text(encoding="utf-8"))
