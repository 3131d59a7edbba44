"""Reports as they are written: beside a patched model, and in a run folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from repairkit.engine.activations import measure_responses
from repairkit.jobs.look.interpreting import interpret
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Settings
from tests.conftest import Answer, Project

Command = Callable[..., Answer]
SCHEMA = json.loads((files("repairkit.report") / "report.schema.json").read_text())


def read(path: Path) -> dict:
    document = json.loads(path.read_text())
    jsonschema.validate(document, SCHEMA)
    return document


def test_a_patched_model_comes_with_page_numbers_and_card(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    answer = repairkit("patch", project.model, "--remove", "conv:2,conv:0", "-o", "out.onnx")
    assert answer.code == 0, answer.err
    assert "out.report.html" in answer.out
    document = read(tmp_path / "out.report.json")
    seen = document["interpretation"]["filters"]
    assert [entry["filter"] for entry in seen] == ["conv:2", "conv:0"]
    assert seen[0]["sees"] == [3, 3]
    assert {row["name"] for row in seen[0]["groups"]} == {"a", "b"}
    page = (tmp_path / "out.report.html").read_text()
    assert page.count("<image ") >= 8
    assert "conv:2" in (tmp_path / "out.model-card.md").read_text()


def test_a_run_is_reported_with_layers_and_curves(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    how = ("--method", "exact", "--no-curve", "-o", "run", "--quiet")
    scored = repairkit("score", project.model, *how)
    assert scored.code == 0, scored.err
    answer = repairkit("report", "run")
    assert answer.code == 0, answer.err
    document = read(tmp_path / "run" / "report.json")
    ends = document["run"]["metrics"]["accuracy"]
    assert document["spread"]["n_each"] == 2
    assert document["spread"]["layers"] == [
        {"site": "conv", "n_filters": 4, "highest": 2, "lowest": 2}
    ]
    curves = document["removal"]
    assert curves["removed"] == [0, 1, 2, 3]
    assert curves["top"][0] == curves["bottom"][0] == curves["random"][0]
    assert abs(curves["top"][0] - ends["all"]) < 1e-9
    assert "<image " in (tmp_path / "run" / "report.html").read_text()
    before = (tmp_path / "run" / "report.html").read_bytes()
    assert repairkit("report", "run", "--quiet").out == ""
    assert (tmp_path / "run" / "report.html").read_bytes() == before


def test_other_data_are_refused_and_can_be_done_without(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    assert repairkit("score", project.model, "--method", "exact", "-o", "run", "-q").code != 0
    assert repairkit("score", project.model, "--method", "exact", "-o", "run", "--quiet").code == 0
    stored = dict(np.load(project.data))
    np.savez(project.data, **{**stored, "y": stored["y"][::-1]})
    answer = repairkit("report", "run")
    assert answer.code == 1
    assert "are not the data" in answer.err
    assert "--no-pictures" in answer.err
    assert not (tmp_path / "run" / "report.html").exists()
    project.model.unlink()
    assert repairkit("report", "run").code == 1
    answer = repairkit("report", "run", "--no-pictures", "-o", "elsewhere/page.html", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["removal"] is None
    assert read(tmp_path / "elsewhere" / "page.json")["notes"]


def test_tables_and_trees_are_reported_without_pictures(repairkit: Command, tmp_path: Path) -> None:
    pytest.importorskip("skl2onnx", reason="skl2onnx is not installed")
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from sklearn.ensemble import RandomForestClassifier

    from tests.tables import converted, save, write_table

    rng = np.random.default_rng(0)
    x = rng.standard_normal((90, 4))
    y = (x[:, 0] > 0).astype(int)
    forest = RandomForestClassifier(5, max_depth=2, random_state=0).fit(x, y)
    save(converted(forest, x.astype(np.float32)), tmp_path / "f.onnx")
    data = write_table(tmp_path / "rows.csv", x, y)
    scored = repairkit(
        "score", "f.onnx", "--data", data, "--method", "exact", "-o", "run", "--quiet"
    )
    assert scored.code == 0, scored.err
    answer = repairkit("report", "run", "--quiet")
    assert answer.code == 0, answer.err
    document = read(tmp_path / "run" / "report.json")
    assert "most" not in document["interpretation"]["filters"][0]
    assert "<image " not in (tmp_path / "run" / "report.html").read_text()


def test_the_images_shown_are_those_that_a_filter_responds_to(project: Project) -> None:
    settings = Settings(data=project.data, groups=("group",))
    bench = prepare(read_subject(project.model), settings)
    suite = bench.parts.selection
    chosen = bench.roster.filters[1]
    responses = measure_responses(bench.working.opened, bench.roster.sites, [chosen], suite)
    images = suite.batch(np.arange(len(suite)))
    weights = {t.name: t for t in bench.subject.model.graph.initializer}
    from onnx import numpy_helper

    kernel, bias = (numpy_helper.to_array(weights[n]).astype(float) for n in ("w", "b"))
    by_hand = np.empty((len(suite), 4, 4))
    for row in range(4):
        for column in range(4):
            patch = images[:, :, row : row + 3, column : column + 3].astype(float)
            by_hand[:, row, column] = (patch * kernel[1]).sum(axis=(1, 2, 3)) + bias[1]
    flat = by_hand.reshape(len(suite), -1)
    np.testing.assert_allclose(responses.peaks[0], flat.max(1), rtol=1e-4)
    np.testing.assert_allclose(responses.means[0], flat.mean(1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(responses.rows[0], (flat.argmax(1) // 4 + 0.5) / 4)
    entry = interpret(bench, [chosen], value="accuracy").document["filters"][0]
    order = suite.indices[np.argsort(-flat.max(1), kind="stable")]
    assert [image["row"] for image in entry["most"]] == order[:4].tolist()
    assert [image["row"] for image in entry["least"]] == order[::-1][:4].tolist()
