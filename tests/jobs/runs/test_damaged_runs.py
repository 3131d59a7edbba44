"""A run folder that was damaged is refused, in one line, by whoever reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Answer, Project, write_project

Command = Callable[..., Answer]
Damage = Callable[[Path], Any]


@pytest.fixture(scope="module")
def scored_once(tmp_path_factory: pytest.TempPathFactory) -> Project:
    from repairkit.cli import run

    project = write_project(tmp_path_factory.mktemp("scored"))
    options = ["--metric", "accuracy", "--method", "exact", "--quiet"]
    assert run(["score", str(project.model), *options, "-o", str(project.folder / "run")]) == 0
    return project


def without_rows(run: Path) -> None:
    lines = (run / "scores.csv").read_text().splitlines(keepends=True)
    (run / "scores.csv").write_text("".join(lines[:3]))


def with_one_twice(run: Path) -> None:
    lines = (run / "scores.csv").read_text().splitlines(keepends=True)
    (run / "scores.csv").write_text("".join([*lines[:-1], lines[1]]))


def telling(path: str, value: Any) -> Damage:
    """Puts something else in `run.json`."""

    def damage(run: Path) -> None:
        document = json.loads((run / "run.json").read_text())
        *outer, last = path.split(".")
        place = document
        for name in outer:
            place = place[name]
        place[last] = value
        (run / "run.json").write_text(json.dumps(document))

    return damage


READERS: dict[str, tuple[str, ...]] = {
    "compare": ("compare", "run", "damaged"),
    "merge": ("merge", "run", "damaged", "-o", "merged"),
    "report": ("report", "damaged"),
    "exclude": ("score", "model.onnx", "--exclude-top-of", "damaged", "-o", "new"),
    "patch": ("patch", "model.onnx", "--objective", "accuracy", "--scores", "damaged"),
}
DAMAGES: dict[str, Damage] = {
    "no scores": lambda run: (run / "scores.csv").unlink(),
    "empty scores": lambda run: (run / "scores.csv").write_text(""),
    "rows missing": without_rows,
    "a row twice": with_one_twice,
    "no parts": telling("parts", None),
    "confidence": telling("confidence", "high"),
    "estimator": telling("settings.estimator", None),
    "excluded": telling("excluded", []),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told(
    repairkit: Command,
    scored_once: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
    reader: str,
) -> None:
    folder = tmp_path / "project"
    shutil.copytree(scored_once.folder, folder)
    shutil.copytree(folder / "run", folder / "damaged")
    DAMAGES[damage](folder / "damaged")
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    answer = repairkit(*READERS[reader])
    assert answer.code == 1
    assert answer.err.count("\n") == 1
    assert "damaged" in answer.err
    assert "score the model again" in answer.err
    assert sorted(folder.iterdir()) == before
