"""What CONTRIBUTING.md shows as code is run as it stands there."""

from __future__ import annotations

import csv
import importlib
import json
import re
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repairkit.estimators import registry
from repairkit.jobs.export import adapters
from repairkit.jobs.repair import patching
from repairkit.metrics import catalogue
from tests.cli.test_commands import harm
from tests.conftest import Answer, Project

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "CONTRIBUTING.md"
Command = Callable[..., Answer]
Example = Callable[[str], Any]


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports the block of code that opens with a comment of a title, from a file of its own."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def load(title: str) -> Any:
        text = PAGE.read_text(encoding="utf-8")
        blocks = dict(re.findall(r"```python\n# (.*?)\n(.*?)```", text, re.DOTALL))
        name = f"contributing_{title.split()[-1]}"
        (tmp_path / f"{name}.py").write_text(blocks[title], encoding="utf-8")
        return importlib.import_module(name)

    return load


@pytest.mark.parametrize("page", [PAGE, ROOT / "docs" / "architecture.md"], ids=lambda p: p.name)
def test_every_path_that_a_page_names_is_there(page: Path) -> None:
    known = {
        f"/{path.relative_to(ROOT).as_posix()}"
        for folder in ("repairkit", "adapters", "tests", "docs", "benchmarks")
        for path in (ROOT / folder, *(ROOT / folder).rglob("*"))
    }
    tokens = re.findall(r"`([\w/.]+(?:\.py|/))`", page.read_text(encoding="utf-8"))
    assert len(tokens) > 10
    missing = [t for t in tokens if not any(path.endswith(f"/{t.rstrip('/')}") for path in known)]
    assert missing == []


def test_every_example_is_tested() -> None:
    titles = re.findall(r"```python\n# (.*?)\n", PAGE.read_text(encoding="utf-8"))
    assert sorted(titles) == ["a metric", "a repair", "an adapter", "an estimator"]


def test_the_metric_is_scored_and_shown(
    repairkit: Command,
    project: Project,
    example: Example,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    misses = example("a metric").MISSES
    monkeypatch.setattr(catalogue, "METRICS", (*catalogue.METRICS, misses))
    answer = repairkit(
        "score", project.model, "--metric", "misses", "--metric", "accuracy", "-o", "run"
    )
    assert answer.code == 0, answer.err
    figures = json.loads(Path("run/run.json").read_text())["metrics"]
    assert figures["misses"]["all"] == pytest.approx(1 - figures["accuracy"]["all"])
    assert "share of wrong answers" in answer.out


def test_the_estimator_scores(
    repairkit: Command,
    project: Project,
    example: Example,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = {**registry.ESTIMATORS, "banzhaf": example("an estimator").Banzhaf}
    monkeypatch.setattr(registry, "ESTIMATORS", known)
    monkeypatch.setattr("repairkit.jobs.score.methods.ESTIMATORS", known, raising=False)
    values = []
    for method in ("banzhaf", "exact"):
        answer = repairkit(
            "score", project.model, "--metric", "loss", "--method", method, "-o", method
        )
        assert answer.code == 0, answer.err
        with Path(method, "scores.csv").open() as file:
            values.append([float(row["value"]) for row in csv.DictReader(file)])
    # Banzhaf and Shapley values differ, but not in what is large.
    assert np.corrcoef(values)[0, 1] > 0.8


def test_the_repair_is_confirmed_like_all_others(
    repairkit: Command,
    project: Project,
    example: Example,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harm(project)
    strategy = example("a repair").FreezeOneStrategy()
    monkeypatch.setattr(patching, "CURES", (*patching.CURES, strategy))
    answer = repairkit("patch", project.model, "--fairness", "--repair", "freeze-one", "--json")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert [frozen["filter"] for frozen in document["frozen"]] == ["conv:2"]
    assert document["selection"]["promise"]["reached"] is not None


def test_the_adapter_exports_proves_and_maps_its_model(
    repairkit: Command, example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = example("an adapter").ADAPTER
    point = EntryPoint("pointwise", f"{adapter.__class__.__module__}:ADAPTER", adapters.GROUP)
    monkeypatch.setattr(adapters, "entry_points", lambda **_: [point])
    weights = np.random.default_rng(1).normal(size=(4, 3))
    np.save("tiny.pointwise.npy", weights)
    answer = repairkit("export", "tiny.pointwise.npy", "-o", "tiny.onnx", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["framework"] == "pointwise"
    assert Path("tiny.onnx").exists()
