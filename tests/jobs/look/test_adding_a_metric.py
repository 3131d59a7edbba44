"""Adding a metric is one object in the list; every place that shows a figure asks that object."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repairkit.core.metric import Measure
from repairkit.metrics import catalogue
from repairkit.metrics.catalogue import METRICS
from repairkit.metrics.definition import Definition, Hits, ImageMetric, weigh_evenly
from tests.conftest import Project

WORDS = "share of wrong answers"


class _Misses(Hits):
    def __call__(self, *given: Any) -> Any:
        return 1.0 - super().__call__(*given)


MISSES = Definition(
    name="misses",
    measure=Measure(words=WORDS, greater_is_better=False, unit="share", ends=(0.0, 1.0)),
    make=lambda case: ImageMetric(
        name=case.name,
        measure=case.measure,
        score_range=(0.0, 1.0),
        score_images=_Misses(case.form),
        weigh=weigh_evenly,
    ),
)


@pytest.fixture(autouse=True)
def _listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "METRICS", (*METRICS, MISSES))


def test_a_metric_in_the_list_is_shown_everywhere_with_its_unit_and_words(
    repairkit: Callable[..., Any], project: Project, tmp_path: Path
) -> None:
    scored = repairkit(
        "score", project.model, "--metric", "misses", "--method", "exact", "-o", "run"
    )
    assert scored.code == 0, scored.err
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["measures"]["misses"] == MISSES.measure.to_json()
    assert run["less_is_better"] == ["misses"]
    whole = f"{100 * run['metrics']['misses']['all']:.1f} %"
    assert f"V(all) = {whole}" in scored.out
    assert f"for {WORDS} (less is better: a filter above 0 harms)" in " ".join(scored.out.split())
    reported = repairkit("report", "run", "--no-pictures")
    assert reported.code == 0, reported.err
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"{WORDS}: {whole.replace(' ', chr(0xA0))} with every filter" in page


def test_a_repair_shows_it_in_the_same_unit_on_terminal_and_page(
    repairkit: Callable[..., Any], project: Project, tmp_path: Path
) -> None:
    with (project.folder / "repairkit.toml").open("a") as settings:
        settings.write('metrics = ["misses"]\n')
    answer = repairkit("patch", project.model, "--remove", "conv:0", "-o", "cured.onnx")
    assert answer.code == 0, answer.err
    report = json.loads((tmp_path / "cured.report.json").read_text())
    assert report["measures"]["misses"] == MISSES.measure.to_json()
    before = report["evaluations"]["before"]["metrics"]["misses"]["value"]
    row = next(line for line in answer.out.splitlines() if WORDS in line and "│" in line)
    assert f"{100 * before:.1f} [" in row
    assert "points" in row
    page = (tmp_path / "cured.report.html").read_text()
    assert f"{100 * before:.1f}\N{NO-BREAK SPACE}%" in page
    assert WORDS in page
    assert "misses" not in page.partition('<h2 id="method">')[0]
