"""What the documents say can be done is done."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Answer, Project

GUIDE = Path(__file__).parents[1] / "docs" / "guide"


def code_of(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    return text.split("```python\n")[1].split("```")[0]


def test_the_estimator_of_the_guide_plugs_in(
    repairkit: Callable[..., Answer],
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = code_of(GUIDE / "estimators.md")
    lines = [line for line in code.splitlines() if line.strip() and "import" not in line]
    assert len(lines) == 10
    (tmp_path / "alone.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    answer = repairkit("score", project.model, "--method", "alone:Alone", "-o", "run")
    assert answer.code == 0, answer.err
    with (tmp_path / "run" / "scores.csv").open() as file:
        values = {row["filter"]: float(row["value"]) for row in csv.DictReader(file)}
    assert set(values) == {f"conv:{c}" for c in range(4)}
    assert np.isfinite(list(values.values())).all()
