"""`repairkit list` names everything there is to choose from, with what it means."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import repairkit as kit
from repairkit.core.errors import SettingsError
from repairkit.jobs.look.lists import SHOWN, list_columns
from repairkit.jobs.score.score_settings import METHODS
from repairkit.metrics.catalogue import METRIC_NAMES, measure_of
from tests.conftest import Answer, Project

Command = Callable[..., Answer]


def listed(answer: Answer, what: str) -> Sequence[dict[str, object]]:
    assert answer.code == 0, answer.err
    entries = json.loads(answer.out)[what]
    assert isinstance(entries, list)
    return entries


def test_metrics_are_listed_with_meaning_direction_and_unit(repairkit: Command) -> None:
    metrics = listed(repairkit("list", "metrics", "--json"), "metrics")
    assert {str(m["name"]) for m in metrics} == {n for n in METRIC_NAMES if not n.endswith("*")}
    for metric in metrics[:-1]:
        measure = measure_of(str(metric["name"]))
        assert metric["better"] == ("more" if measure.greater_is_better else "less")
        assert (metric["unit"] == "per cent") == measure.is_share
        assert len(str(metric["meaning"]).split()) > 1 or metric["meaning"] == measure.words


def test_methods_are_listed_with_what_they_estimate_and_cost(repairkit: Command) -> None:
    methods = listed(repairkit("list", "methods", "--json"), "methods")
    assert tuple(m["name"] for m in methods) == (*METHODS, "module:object")
    assert all(m["estimates"] and m["cost"] for m in methods)


TEXTS = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=4)


@given(st.lists(TEXTS, min_size=1, max_size=40))
@example(["\U0002f800", "\u4e3d"])  # one character in two ways of writing it
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_column_is_listed_with_its_commonest_values(tmp_path: Path, values: list[str]) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((len(values), 2)), sort=np.array(values))
    (column,) = list_columns(tmp_path / "d.npz")
    counts = Counter(unicodedata.normalize("NFC", value) for value in values)
    assert (column.name, column.n_values) == ("sort", len(counts))
    assert len(column.values) == min(SHOWN, len(counts))
    assert all(counts[value] == n for value, n in column.values)
    least = min(n for _, n in column.values)
    assert all(n <= least for value, n in counts.items() if value not in dict(column.values))


def test_columns_of_a_manifest_and_of_a_folder(repairkit: Command, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,label,kind,age\na.png,1,x,3\nb.png,0,x,4.5\n")
    columns = listed(repairkit("list", "columns", "--data", "m.csv", "--json"), "columns")
    assert {c["name"]: (c["kind"], c["use"]) for c in columns} == {
        "path": ("text", "image file"), "label": ("number", "label"), "kind": ("text", ""),
        "age": ("number", ""),
    }  # fmt: skip
    assert columns[2]["values"] == {"x": 2}
    columns = listed(
        repairkit("list", "columns", "--data", "m.csv", "--label", "kind", "--json"), "columns"
    )
    assert [c["name"] for c in columns if c["use"] == "label"] == ["kind"]
    for place in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/note.txt"):
        (tmp_path / "images" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / place).write_bytes(b"")
    columns = listed(repairkit("list", "columns", "--data", "images", "--json"), "columns")
    assert [(c["name"], c["values"]) for c in columns] == [("label", {"cat": 2, "dog": 1})]


def test_the_project_file_names_the_data_and_the_model(
    repairkit: Command, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder)
    columns = listed(repairkit("list", "columns", "--json"), "columns")
    assert {c["name"] for c in columns} == {"y", "group"}
    sites = listed(repairkit("list", "sites", "--json"), "sites")
    assert [(s["name"], s["n_filters"]) for s in sites] == [("conv", 4)]
    assert "conv" in repairkit("list", "sites").out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["metric"], "choose metrics, methods, columns, sites; did you mean 'metrics'?"),
        (["sites"], "no model was given"),
        (["columns"], "no images were given"),
        (["columns", "--data", "no.csv"], "no.csv: does not exist; check --data"),
        (["columns", "--data", "m.csv", "--label", "lable"], "did you mean 'label'?"),
    ],
)
def test_what_cannot_be_listed_is_said_in_one_line(
    repairkit: Command, tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "m.csv").write_text("path,label\na.png,1\n")
    answer = repairkit("list", *words)
    assert answer.code == 1
    assert message in answer.err
    assert len(answer.err.splitlines()) == 1


def test_the_api_lists_alike() -> None:
    assert len(kit.listing("methods").entries) == len(METHODS) + 1
    with pytest.raises(SettingsError, match="name an ONNX file"):
        kit.listing("sites")
